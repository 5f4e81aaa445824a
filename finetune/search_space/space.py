"""Notation of a search space: choice(4, 8, 16), log(1e-5, 1e-3), range(0, 0.5, 0.1), or a list."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from finetune.config.yaml import parse_value
from finetune.errors import closest, nearest

_CALL = re.compile(r"\s*([A-Za-z_]+)\s*\((?:(.*)\)\s*|[^)]*)", re.DOTALL)
_EXAMPLES = {
    "choice": "choice(4, 8, 16)",
    "log": "log(1e-5, 1e-3)",
    "range": "range(0, 0.5, 0.1)",
}
# Names of other libraries.
_FOREIGN = {"loguniform": "log", "uniform": "range", "quniform": "range", "randint": "range"}
_FOREIGN |= {"categorical": "choice", "grid_search": "choice", "grid": "choice"}


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that are valid only if all are."""
        return self.values

    def __str__(self) -> str:
        return f"choice({', '.join(map(format_item, self.values))})"


@dataclass(frozen=True)
class Interval:
    """The numbers between two bounds, both included; whole ones if the bounds are whole.

    Attributes:
        step: distance of the numbers; None: all.
        log: True to sample the logarithm uniformly.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def is_whole(self) -> bool:
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 1))

    @property
    def size(self) -> int | None:
        """Number of values; None if they are not countable."""
        step = self.step or (1 if self.is_whole and not self.log else None)
        return None if step is None else 1 + math.floor((self.high - self.low) / step + 1e-9)

    @property
    def probes(self) -> tuple[Any, ...]:
        return self.low, self.high

    def __str__(self) -> str:
        numbers = [self.low, self.high, *([] if self.step is None else [self.step])]
        return f"{'log' if self.log else 'range'}({', '.join(map(format_item, numbers))})"


Values = Choice | Interval


def parse_values(value: Any) -> Values:
    """Parse a list or a text in the notation. Raises ValueError with the remedy."""
    if isinstance(value, list | tuple):
        return _choice("a list", value)
    match = _CALL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"should be a list, or such as {' or '.join(_EXAMPLES.values())}")
    name = match[1].lower()
    if name not in _EXAMPLES:
        hint = f"did you mean {_FOREIGN[name]!r}?" if name in _FOREIGN else nearest(name, _EXAMPLES)
        raise ValueError(f"unknown function {match[1]!r}; {hint}")
    if match[2] is None:
        raise ValueError(f"the closing parenthesis is missing; write it as in {_EXAMPLES[name]}")
    try:
        items = parse_value(f"[{match[2]}]")
    except yaml.YAMLError:
        raise ValueError(f"cannot be read; write it as in {_EXAMPLES[name]}") from None
    return _choice(name, items) if name == "choice" else _interval(name, items)


def is_notation(value: Any) -> bool:
    """True for a text that is meant as a call of choice, log or range, even if misspelled."""
    match = _CALL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    name = match[1].lower()
    return name in _FOREIGN or closest(name, _EXAMPLES) is not None


def format_item(value: Any) -> str:
    """Format a value as one would type it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _choice(name: str, items: Sequence[Any]) -> Choice:
    if not items:
        raise ValueError(f"{name} without values")
    if any(isinstance(item, list | dict) for item in items):
        raise ValueError(f"{name} should hold single values, not lists")
    if len({str(item) for item in items}) < len(items):
        raise ValueError(f"{name} holds a value twice")
    return Choice(tuple(items))


def _interval(name: str, items: Sequence[Any]) -> Interval:
    most = 3 if name == "range" else 2
    is_number = [isinstance(item, int | float) and not isinstance(item, bool) for item in items]
    if not 2 <= len(items) <= most or not all(is_number) or not all(map(math.isfinite, items)):
        count = "two numbers" if name == "log" else "two or three numbers"
        raise ValueError(f"{name} needs {count} with commas between them, as in {_EXAMPLES[name]}")
    low, high, *step = items
    if not low < high:
        raise ValueError(f"{name} needs its smaller bound first, as in {_EXAMPLES[name]}")
    if name == "log" and low <= 0:
        raise ValueError("log needs bounds above 0; use range for those that include 0")
    if step and not 0 < step[0] <= high - low:
        raise ValueError(f"the step of range should be above 0 and at most {high - low:g}")
    return Interval(low, high, step[0] if step else None, name == "log")
