"""Types of values in configs and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.config.yaml import parse_value, read_yaml, split_override, split_overrides
from finetune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("12", 12),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("2024-01-02", "2024-01-02"),
        ("12:30", "12:30"),
        ("0123", "0123"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("'1e-4'", "1e-4"),
        ("[a, 1e-3]", ["a", 1e-3]),
        ("a=b", "a=b"),
    ],
)
def test_parse_value_returns_the_intended_type(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["{headline}", "{body}\nTL;DR:", "{q}: {a}", "[INST] {q} [/INST]"])
def test_split_override_keeps_a_prompt_template_as_text(text: str) -> None:
    assert split_override(f"task.prompt={text}") == ("task.prompt", text)


def test_split_override_parses_a_mapping() -> None:
    assert split_override("rank_pattern={query: 16}") == ("rank_pattern", {"query": 16})


def test_split_overrides_rejects_a_key_with_two_values() -> None:
    assert split_overrides(["text=body", "text=body"]) == {"text": "body"}
    with pytest.raises(ConfigError, match="text has two values, 'body' and 'title'; remove one"):
        split_overrides(["text=body", "text=title"])


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: a\ntrain:\n  max_steps: 1\n  max_steps: 2\n", "'max_steps' is already in line 3"),
        ("task: a\ntask: b\n", "'task' is already in line 1; remove one"),
        ("task: {name: a, text: b, text: c}\n", "'text' is already in line 1; remove one"),
        (BOMB, "aliases .* stand for over 100000 values"),
        ("a: &a [*a]\n", "aliases"),
        ("seed: !!int abc\n", "invalid literal for int"),
        (f"seed: {'9' * 5000}\n", "digits"),
        ("[" * 3000, "nested too deeply"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
)
def test_read_yaml_rejects_documents_that_no_config_needs(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "news.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: not valid YAML")
    with pytest.raises(yaml.YAMLError):
        parse_value(text)


def test_read_yaml_reads_aliases_and_merged_keys(tmp_path: Path) -> None:
    path = tmp_path / "news.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
