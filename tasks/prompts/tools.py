"""Tools that a dialogue may call, in the format that chat templates expect.

A row: {"messages": [...], "tools": [{"type": "function", "function": {"name": "weather",
"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]}; the tools may also
be a JSON string, which avoids the merging of different schemas into one column type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.errors import DataError

TOOL_NAMES = ("tools", "functions")
Tool = dict[str, Any]


def parse_tools(value: Any) -> list[Tool] | None:
    """Parse the tools of a cell; None if it is empty. Raises DataError if they are malformed."""
    tools = value
    if isinstance(value, str) and value.strip():
        try:
            tools = json.loads(value)
        except ValueError as error:
            raise DataError(f"{value!r:.80} is not valid JSON: {error}") from error
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{value!r:.80} is not a list of tools, each a JSON schema")
    # A null in a JSON string is intended, such as a default; in a typed column it is filler.
    return [_with_type(dict(tool) if tools is not value else drop_nulls(tool)) for tool in tools]


def tool_faults(column: str, value: Any) -> Iterator[str]:
    """Yield the fault of a row's tools, if there is one."""
    try:
        parse_tools(value)
    except DataError as error:
        yield f"{column}: {error}"


def drop_nulls(value: Any) -> Any:
    """Drop keys with null values from nested dicts: those that a typed column has added."""
    if isinstance(value, Mapping):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    return [drop_nulls(item) for item in value] if isinstance(value, list) else value


def _with_type(tool: Tool) -> Tool:
    """Wrap a bare function schema, as older datasets have it, in {"type": "function", ...}."""
    return tool if "function" in tool else {"type": "function", "function": tool}
