"""The command `finetune tasks`."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
from pydantic import Field, PositiveInt

from finetune.commands.tasks import section_lines
from finetune.config.loading import SECTIONS
from finetune.config.schema import Section
from finetune.methods import METHODS
from finetune.registry import find_method, find_task
from tests.support.command_line import finetune


def test_show_tasks_imports_no_task() -> None:
    code = (
        "import sys; from finetune.commands.tasks import show_tasks; show_tasks()\n"
        "print('loaded', *sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    listed, _, loaded = output.partition("loaded")
    assert "text-classification" in listed
    assert not {"torch", "transformers", "tasks"} & {*loaded.split()}


def test_tasks_shows_all_keys_of_the_task_and_the_engine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune("tasks", "text-classification") == 0
    lines = capsys.readouterr().out.splitlines()
    methods = [find_method(name).Config for name in METHODS]
    schemas = [find_task("text-classification").Config, *SECTIONS.values(), *methods]
    for schema in schemas:
        for key, field in schema.model_fields.items():
            if key == "name" and schema in methods:
                continue
            at = [line for line in lines if line.startswith(f"  {key}: ")]
            assert at, f"{schema.__name__}.{key} is not shown"
            if field.description:
                assert any(field.description.split("\n")[0].strip() in line for line in lines)


def test_tasks_suggests_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune("tasks", "text-clasification") == 2
    assert "did you mean 'text-classification'?" in capsys.readouterr().err


class Example(Section):
    """Keys of many types."""

    must: str
    """No default."""
    size: PositiveInt | Literal["epoch"] | None = None
    names: list[str] = Field(default=[])
    weights: dict[str, float] | None = None
    fast: bool = False


def test_section_lines_show_type_and_default() -> None:
    assert list(section_lines("example", Example)) == [
        "example: Keys of many types.",
        "  must: string (required)",
        "      No default.",
        "  size: integer > 0 | epoch | null = null",
        "  names: [string, ...] = []",
        "  weights: {name: number} | null = null",
        "  fast: true | false = false",
    ]
