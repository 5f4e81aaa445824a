"""Every shipped config is valid; its header carries commands that work and what they measured."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from finetune.arguments import config_and_overrides
from finetune.overrides import load_config
from finetune.registry import find_task
from finetune.shipped import find_config, shipped_configs

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMMAND = re.compile(r"^(?:finetune train|(?:\S+=\S+ )*accelerate launch .*-m finetune train)\b")
MEASURED = re.compile(
    r"\b(?:accuracy|f1|rmse|ap|map|iou|dice|perplexity|rouge)\w*\s+\d*\.\d{2,}", re.I
)


def header(path: Path) -> list[str]:
    """The lines of the comment that a config begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def commands(path: Path) -> list[str]:
    return [line for line in header(path) if COMMAND.match(line)]


def test_configs_are_found() -> None:
    assert CONFIGS
    assert sorted(shipped_configs().values()) == CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid(path: Path) -> None:
    loaded = load_config(path, [], lambda name: find_task(name).Config)
    assert loaded.config.data.source or loaded.config.data.train
    assert loaded.config.task.name == path.parent.name, "configs lie in the folder of their task"
    assert not loaded.notes


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_holds_commands_for_this_config_and_what_was_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert commands(path), "the header gives no `finetune train` or `accelerate launch` command"
    for command in commands(path):
        # A result may stand behind the command, as a comment of the shell.
        words = shlex.split(command.partition("finetune train")[2], comments=True)
        given, overrides = config_and_overrides([word for word in words if word[0] != "-"])
        assert given is not None, f"{command}: names no config"
        assert find_config(given).resolve() == path, f"{command}: is of another config"
        load_config(given, overrides, lambda name: find_task(name).Config)
    text = "\n".join(header(path))
    assert MEASURED.search(text) or "Not measured yet" in text, "the header holds no result"
