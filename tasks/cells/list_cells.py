"""Lists written as text: JSON, Python, numpy, plain words in brackets, or tags.

"['Action', 'Sci-Fi']", '["Action"]', "[1, 0, 0]", "[1. 0. 0.]", "['a' 'b']", "[Action, Drama]",
"<python><pandas>", "{Action,Drama}", '{"choices": ["Action"]}', '[{"id": 28, "name": "Action"}]'
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_LIST = 10_000  # characters that are parsed
_QUOTED = r"'[^']*'|\"[^\"]*\""
_NUMBER = r"-?\d+\.?\d*(?:[eE][-+]?\d+)?"
# numpy separates items by blanks; Python would join adjacent strings to one.
_NUMPY_TEXTS = re.compile(rf"\[\s*(?:{_QUOTED})(?:\s+(?:{_QUOTED}))+\s*\]")
_NUMPY_NUMBERS = re.compile(rf"\[\s*{_NUMBER}(?:\s+{_NUMBER})*\s*\]")
_TAGS = re.compile(r"(?:<[^<>\s/]+>)+")  # as Stack Exchange exports them
_ARRAY = re.compile(r"\{[^{}:'\[\],]+(?:,[^{}:'\[\],]+)*\}")  # as PostgreSQL exports it
_CHOICES = '{"choices":'  # as Label Studio exports several choices in a table
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def parse_list(text: str) -> list[Any] | None:
    """Return the items of a list that is written as text; None for any other text."""
    text = text.strip()
    if len(text) <= LONGEST_LIST and _TAGS.fullmatch(text):
        return text[1:-1].split("><")
    if _ARRAY.fullmatch(text):
        return [item.strip().strip('"') for item in text[1:-1].split(",")]
    if text.startswith(_CHOICES) and text.endswith("]}"):
        return _parse_exactly(text[len(_CHOICES) : -1].strip())
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


def object_name(item: Any) -> Any:
    """Return the name in an object such as {"id": 28, "name": "Action"}; other items as they are.

    It has one text, beside nothing but identifiers.
    """
    if not isinstance(item, Mapping):
        return item
    texts = [value for value in item.values() if isinstance(value, str)]
    others = [key for key, value in item.items() if not isinstance(value, str)]
    is_named = len(texts) == 1 and all(str(key).lower().strip("_").endswith("id") for key in others)
    return texts[0] if is_named else item


def is_object(value: Any) -> bool:
    """True for a dict, also one that is written as JSON, and for a list of dicts without names."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = parse_list(value)
    if isinstance(value, list | tuple):
        return any(isinstance(object_name(item), Mapping) for item in value)
    if isinstance(value, str) and value.lstrip().startswith('{"') and parse_list(value) is None:
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
