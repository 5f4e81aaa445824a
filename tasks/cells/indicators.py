"""Labels as zeros and ones: lists with a position per label, and tables with a column per label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_DIGITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_WORDS = {"false": 0, "true": 1}


def parse_bit(value: Any, *, words: bool = True) -> int | None:
    """Return 0 or 1 for a cell that means it (0, "1", 0.0, True, "true"); None for any other."""
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


def _is_binary(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None and value != ""]
    return bool(known) and all(parse_bit(value) is not None for value in known)
