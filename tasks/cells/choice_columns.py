"""Columns with the choices of a question: a list, an object, or a column per choice.

{"choices": ["Rome", "Oslo"]}
{"choices": {"text": ["Rome", "Oslo"], "label": ["A", "B"]}}
{"option_a": "Rome", "option_b": "Oslo"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

CHOICE_NAMES = ("choices", "options", "endings")
ANSWER_KEYS = ("answer", "answerkey", "answer_key", "label", "correct", "cop")
"""Names of columns that say which choice is right."""
_OPTION_COLUMNS = (
    ("a", "b", "c", "d"),
    ("opa", "opb", "opc", "opd"),
)
_OPTION = re.compile(r"(choice|option|opt|ending|sol|solution|answer|distractor)_?([0-9a-e])")


def find_choices(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns that hold the choices of a question; [] if none do."""
    lowered = {name.lower(): name for name in columns}
    lists = [lowered[name] for name in CHOICE_NAMES if name in lowered]
    if lists := [name for name in lists if any(map(labeled_choices, columns[name]))]:
        return lists
    for names in _OPTION_COLUMNS:
        if all(name in lowered for name in names):
            return [lowered[name] for name in names]
    found: dict[str, list[str]] = {}
    for name in lowered:
        if (match := _OPTION.fullmatch(name)) and _holds_texts(columns[lowered[name]]):
            found.setdefault(match[1], []).append(lowered[name])
    return next((names for names in found.values() if len(names) > 1), [])


def find_answer(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """Return the column that says which choice is right."""
    lowered = {name.lower(): name for name in columns}
    return next((lowered[name] for name in ANSWER_KEYS if name in lowered), None)


def labeled_choices(value: Any) -> dict[str, str]:
    """Return {letter or label: text} of the choices in a cell; {} if it holds none."""
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if not isinstance(labels, list) or not isinstance(texts, list):
            return {}
    else:
        texts, labels = value, list(ascii_uppercase)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return {}
    return dict(zip(map(str, labels), texts, strict=False)) if len(texts) <= len(labels) else {}


def _holds_texts(values: Sequence[Any]) -> bool:
    """True for texts other than numbers, such as counts of votes for an option."""
    known = [value for value in values if value is not None and value != ""]
    return bool(known) and all(
        isinstance(value, str) and not re.fullmatch(r"[\d.,\s-]*", value) for value in known
    )
