"""Lists written as text: JSON, Python, numpy, plain words in brackets, or tags.

"['Action', 'Sci-Fi']", '["Action"]', "[1, 0, 0]", "[1. 0. 0.]", "['a' 'b']", "[Action, Drama]",
"<python><pandas>"
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST_LIST = 10_000  # characters that are parsed
_QUOTED = r"'[^']*'|\"[^\"]*\""
_NUMBER = r"-?\d+\.?\d*(?:[eE][-+]?\d+)?"
# numpy separates items by blanks; Python would join adjacent strings to one.
_NUMPY_TEXTS = re.compile(rf"\[\s*(?:{_QUOTED})(?:\s+(?:{_QUOTED}))+\s*\]")
_NUMPY_NUMBERS = re.compile(rf"\[\s*{_NUMBER}(?:\s+{_NUMBER})*\s*\]")
_TAGS = re.compile(r"(?:<[^<>\s/]+>)+")  # as Stack Exchange exports them
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def parse_list(text: str) -> list[Any] | None:
    """Return the items of a list that is written as text; None for any other text."""
    text = text.strip()
    if len(text) <= LONGEST_LIST and _TAGS.fullmatch(text):
        return text[1:-1].split("><")
    items = _parse_exactly(text)
    if items is None and text[:1] == "[" and text[-1:] == "]":
        return [item for part in text[1:-1].split(",") if (item := part.strip().strip("'\""))]
    return items


def are_lists(values: Iterable[Any]) -> bool:
    """True if all texts of a column are lists, and not only single words in brackets."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    lists = [parse_list(text) for text in texts]
    if not texts or None in lists:
        return False
    return any(len(items or []) != 1 for items in lists) or any(map(_parse_exactly, texts))


def is_object(value: Any) -> bool:
    """True for a dict, also one that is written as JSON, and for a list of dicts."""
    if isinstance(value, list | tuple):
        return any(isinstance(item, dict) for item in value)
    if isinstance(value, str) and value.lstrip().startswith('{"'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, dict)


def _parse_exactly(text: str) -> list[Any] | None:
    """Parse the notation of JSON, Python or numpy."""
    if not text or _BRACKETS.get(text[0]) != text[-1] or len(text) > LONGEST_LIST:
        return None
    if _NUMPY_NUMBERS.fullmatch(text):
        return [float(item) for item in text[1:-1].split()]
    if _NUMPY_TEXTS.fullmatch(text):
        return [item[1:-1] for item in re.findall(_QUOTED, text)]
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        try:
            items = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if isinstance(items, set):
        return sorted(items, key=str)
    return list(items) if isinstance(items, list | tuple) else None
