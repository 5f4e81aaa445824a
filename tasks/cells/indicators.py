"""Labels as zeros and ones: lists with a position per label, tables with a column per label, and
objects with a key per label. Columns and objects may write yes and no in other notations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_DIGITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_NOTATIONS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"))
_MARKS = frozenset({"x", "\u2713", "\u2714"})  # a cross or a check mark, beside empty cells
_WORDS = {no: 0 for no, _ in _NOTATIONS} | {yes: 1 for _, yes in _NOTATIONS}
_WORDS |= dict.fromkeys(_MARKS, 1)
_FIRST = {word: pair[1] for pair in _NOTATIONS for word in pair} | dict.fromkeys(_MARKS, "x")


def parse_bit(value: Any, *, words: bool = True) -> int | None:
    """Return 0 or 1 for a cell that means it (0, "1", 0.0, True, "yes", "x"); None for others."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return int(value) if value in (0, 1) else None
    text = value.strip().lower() if isinstance(value, str) else ""
    return _DIGITS.get(text, _WORDS.get(text) if words else None)


def is_indicator(items: Sequence[Any]) -> bool:
    """True for a list of two or more items that are all 0 or 1."""
    return len(items) > 1 and all(parse_bit(item, words=False) is not None for item in items)


def indicator_length(lists: Iterable[Sequence[Any]]) -> int | None:
    """Return the length of lists of zeros and ones, if all of a column are and have one length."""
    known = list(lists)
    lengths = {len(items) for items in known}
    if len(lengths) == 1 and all(map(is_indicator, known)):
        return lengths.pop()
    return None


def indicator_columns(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns whose known values are all 0 or 1."""
    return [name for name, values in columns.items() if _is_binary(values)]


def notations(columns: Mapping[str, Sequence[Any]], names: Iterable[str]) -> dict[str, list[str]]:
    """Group columns of zeros and ones by the notation that they are written in."""
    groups: dict[str, list[str]] = {}
    for name in names:
        known = [value for value in columns[name] if value is not None and value != ""]
        words = {value.strip().lower() for value in known if isinstance(value, str)} - {*_DIGITS}
        is_truth = any(isinstance(value, bool) for value in known)
        kind = "true" if is_truth else next((word for word in _FIRST if word in words), "")
        groups.setdefault(_FIRST.get(kind, ""), []).append(name)
    return groups


def indicator_mapping(value: Any) -> dict[str, int | None] | None:
    """Return an object such as {toxic: 1, obscene: 0}, or its JSON, with a bit per label.

    None for any other cell. A value that is null gives None.
    """
    if isinstance(value, str) and value.lstrip().startswith('{"'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, Mapping):
        return None
    bits = {str(name): parse_bit(cell) for name, cell in value.items()}
    known = [bits[str(name)] for name, cell in value.items() if cell is not None]
    return bits if known and None not in known else None


def label_mappings(values: Sequence[Any]) -> list[dict[str, int | None]]:
    """Return the cells of a column of objects such as {toxic: 1, obscene: 0}, else []."""
    mappings = [indicator_mapping(value) for value in values if value is not None]
    known = [each for each in mappings if each is not None]
    return known if len(known) == len(mappings) else []


def mapping_columns(mappings: Sequence[Mapping[str, int | None]]) -> list[list[int | None]]:
    """Return the columns of objects that have a key per label."""
    names = dict.fromkeys(name for each in mappings for name in each)
    return [[each.get(name) for each in mappings] for name in names]


def _is_binary(values: Sequence[Any]) -> bool:
    """True if all known values are zeros and ones, or words of one notation."""
    known = [value for value in values if value is not None and value != ""]
    if not known or any(parse_bit(value) is None for value in known):
        return False
    words = {value.strip().lower() for value in known if isinstance(value, str)} - {*_DIGITS}
    return any(words <= {*notation} for notation in (*_NOTATIONS, _MARKS))
