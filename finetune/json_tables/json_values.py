"""Strict parsing of JSON: one value, or values one after the other, each with its line.

Stricter than `json`, which takes the last of two equal keys and reads Infinity; more lenient in one
thing: NaN, which Python and pandas write for a missing value, is read as null and counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

DEEPEST = 64
"""Levels of nesting that are read."""

_BETWEEN = re.compile(r"\s*,?\s*")
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
_OPENING = re.compile(r"[\[{]")


class Placed(NamedTuple):
    """A value and the place where it begins, such as "line 3"."""

    place: str
    value: Any


class JsonParser:
    """Parser of strict JSON that counts what it reads as null.

    Attributes:
        nans: number of NaN so far.
        commas: number of commas between top-level values so far.
    """

    def __init__(self) -> None:
        self.nans = 0
        self.commas = 0
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_unique,
            parse_constant=self._read_constant,
            parse_float=_finite,
        )

    def parse(self, text: str) -> Any:
        """Parse one value. Raises ValueError, with a line and column where there are several."""
        value, end = self._decode(text, _skip(text, 0))
        rest = _skip(text, end)
        if rest < len(text):
            raise json.JSONDecodeError("Extra data", text, rest)
        return value

    def parse_sequence(self, text: str) -> Iterator[Placed]:
        """Yield values that follow each other, over lines of any number, with or without commas."""
        at, line, counted = _skip(text, 0), 1, 0
        while at < len(text):
            line, counted = line + text.count("\n", counted, at), at
            try:
                value, end = self._decode(text, at)
            except json.JSONDecodeError:
                raise
            except ValueError as error:
                raise ValueError(f"line {line}: {error}") from None
            yield Placed(f"line {line}", value)
            between = _BETWEEN.match(text, end)
            assert between is not None, "the pattern matches nothing as well"
            at = between.end()
            self.commas += "," in between[0] and at < len(text)

    def _decode(self, text: str, start: int) -> tuple[Any, int]:
        try:
            value, end = self._decoder.raw_decode(text, start)
        except RecursionError:
            raise ValueError(f"nested more than {DEEPEST} levels deep") from None
        raw = text[start:end] if start or end < len(text) else text
        if _is_deep(raw, value):
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        if _SURROGATE.search(raw):
            _check_characters(value)
        return value, end

    def _read_constant(self, name: str) -> None:
        if name != "NaN":
            raise ValueError(f"{name} is not a JSON number; write a finite number or null")
        self.nans += 1


def _skip(text: str, at: int) -> int:
    """Return the position of the next character that is not blank."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large for a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return values


def _is_deep(raw: str, value: Any) -> bool:
    if len(_OPENING.findall(raw)) <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner for each in level if isinstance(each, dict | list) for inner in _inside(each)
        ]
    return bool(level)


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _check_characters(value: Any) -> None:
    """Raise ValueError for half of a pair of surrogates, which no file can hold as text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{half} is half of a character") from None
