"""The tools that a dialogue may call, in the form in which chat templates are given them.

A row: {"messages": [...], "tools": [{"type": "function", "function": {"name": "weather",
"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]}; the tools may also
be the JSON text of such a list, which keeps apart schemas that one type of a column would merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.errors import DataError

TOOL_NAMES = ("tools", "functions")
Tool = dict[str, Any]


def tools_of(value: Any) -> list[Tool] | None:
    """The tools of a cell, None if it holds none. Raises DataError for what is no list of them."""
    held = value
    if isinstance(value, str) and value.strip():
        try:
            held = json.loads(value)
        except ValueError as error:
            raise DataError(f"{value!r:.80} is not valid JSON: {error}") from error
    if not held:
        return None
    if not isinstance(held, list) or not all(isinstance(tool, Mapping) for tool in held):
        raise DataError(f"{value!r:.80} is no list of tools, each a JSON schema")
    # Nulls of a text were written there: a default, say.
    return [_in_full(dict(tool) if held is not value else without_nulls(tool)) for tool in held]


def tool_faults(column: str, value: Any) -> Iterator[str]:
    """What is wrong with the tools of a row."""
    try:
        tools_of(value)
    except DataError as error:
        yield f"{column}: {error}"


def without_nulls(value: Any) -> Any:
    """Nested dicts without the keys that one type for a whole column has added to them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _in_full(tool: Tool) -> Tool:
    """A tool with its kind; older sets hold the bare function."""
    return tool if "function" in tool else {"type": "function", "function": tool}
