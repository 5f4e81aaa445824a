"""Equality of labels across types and files, and their type in the data.

The labels 0, 0.0, "0", "0.0", False and "False" are one, since a table with a gap, or one that was
converted, writes the same label as another type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

LabelType = Literal["integer", "number", "boolean", "text"]

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
_BOOLEANS = {"false": "0", "true": "1"}


def label_key(name: str) -> str:
    """Return a text that is equal for labels that differ in their type only."""
    whole = _WHOLE.fullmatch(name)
    return whole[1] if whole else _BOOLEANS.get(name.casefold(), name)


class LabelIndex:
    """Index of label names: by their exact text, else regardless of the type."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = {name: index for index, name in enumerate(names)}
        keys = reversed(list(enumerate(names)))
        self._by_key = {label_key(name): index for index, name in keys}

    def get(self, name: str) -> int | None:
        """Return the index of a name, or None if it is unknown."""
        index = self._exact.get(name)
        return self._by_key.get(label_key(name)) if index is None else index


def configured_labels(configured: Sequence[str] | Mapping[str, str]) -> list[str]:
    """Return the names of task.labels, a list or {value: name}; two values may share a name."""
    names = configured.values() if isinstance(configured, Mapping) else configured
    plain = [name.strip() for name in names]
    return list(dict.fromkeys(plain)) if isinstance(configured, Mapping) else plain


def check_label_names(names: Sequence[str]) -> None:
    """Raise ValueError for a list of label names that is empty, holds a blank, or repeats one."""
    names = [name.strip() for name in names]
    if not names:
        raise ValueError("is empty; list the labels, or leave the key out")
    if "" in names:
        raise ValueError("a name is empty; write every label as text")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{name!r} is listed {count} times; list it once")


def is_missing(value: Any) -> bool:
    """True for an empty cell: None, NaN, or a blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and value != value)


def merge_spellings(names: Iterable[str]) -> dict[str, str]:
    """Return {name: the name that replaces it} for labels that differ in their type only.

    Integers if there are some, else the first spelling of each.
    """
    distinct = sorted(set(names))
    if any(_INTEGER.fullmatch(name) for name in distinct):
        return {name: label_key(name) for name in distinct}
    chosen = {label_key(name): name for name in reversed(distinct)}
    return {name: chosen[label_key(name)] for name in distinct}


def label_type(values: Iterable[Any]) -> LabelType:
    """Return the type that all known labels of a column have; text for a mixture."""
    kinds = set[LabelType]()
    for value in values:
        if isinstance(value, np.generic):
            value = value.item()
        if is_missing(value):
            continue
        match value:
            case bool():
                kinds.add("boolean")
            case int():
                kinds.add("integer")
            case float():
                kinds.add("number")
            case _:
                return "text"
    return kinds.pop() if len(kinds) == 1 else "text"


def typed_labels(names: Sequence[str], kind: str) -> list[Any]:
    """Convert label names back to the type of the data; unchanged if a name is not of that type."""
    convert: dict[str, Any] = {"integer": int, "number": float, "boolean": "true".__eq__}
    if kind not in convert or (kind == "boolean" and not {*names} <= {"true", "false"}):
        return list(names)
    try:
        return [convert[kind](name) for name in names]
    except ValueError:
        return list(names)
