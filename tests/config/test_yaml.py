"""Types of values in configs and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config.yaml import parse_value, split_override


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
