"""The command `tasks`: list the installed tasks, and every key of a config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from finetune.config.json_schema import config_schema
from finetune.config.loading import SECTIONS
from finetune.registry import (
    find_method_config,
    find_task_config,
    method_names,
    task_names,
)
from finetune.search_space.search_config import LEAVES, SearchConfig

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def show_tasks() -> None:
    """Print the names of the installed tasks, without importing them."""
    points = task_names()
    width = max(map(len, points), default=0)
    for name, point in sorted(points.items()):
        print(f"{name:<{width}}  {point.value}")
    print(
        "\nAll config keys of a task: finetune tasks NAME\nTo use your own task: task=file.py:Class"
    )


def show_keys(name: str) -> None:
    """Print every config key for this task by section, with its type, default and description."""
    sections: dict[str, type[BaseModel]] = {"task": find_task_config(name)}
    sections |= {key: value for key, value in SECTIONS.items() if key == "model" or key == "data"}
    sections |= {f"method={key}": find_method_config(key) for key in method_names()}
    sections |= {key: value for key, value in SECTIONS.items() if key not in sections}
    sections["search"] = SearchConfig
    for title, schema in sections.items():
        print("\n".join(section_lines(title, schema)), end="\n\n")


def show_schema() -> None:
    """Print the JSON schema of config files for all installed tasks."""
    tasks = {name: find_task_config(name) for name in sorted(task_names())}
    methods = {name: find_method_config(name) for name in method_names()}
    print(json.dumps(config_schema(tasks, methods, SearchConfig, LEAVES), indent=1))


def section_lines(title: str, schema: type[BaseModel]) -> Iterator[str]:
    """Format a section as lines: its title, then for each key its type and its description."""
    summary = (schema.__doc__ or "").strip().partition("\n")[0]
    yield f"{title}: {summary}"
    described = schema.model_json_schema()
    required = described.get("required", [])
    for key, facts in described.get("properties", {}).items():
        if key == "name" and "const" in facts:
            continue  # already part of the title
        default = " (required)" if key in required else f" = {json.dumps(facts.get('default'))}"
        yield f"  {key}: {describe_type(facts)}{default}"
        if "description" in facts:
            lines = facts["description"].splitlines()
            yield from (f"      {line}" for line in lines if line.strip())


def describe_type(facts: dict[str, Any]) -> str:
    """Describe the values that a JSON schema allows: `integer > 0 | null`."""
    if "anyOf" in facts:
        return " | ".join(describe_type(choice) for choice in facts["anyOf"])
    if "const" in facts:
        return str(facts["const"])
    if "enum" in facts:
        return " | ".join(map(str, facts["enum"]))
    match facts.get("type"):
        case "array":
            return f"[{describe_type(facts.get('items', {}))}, ...]"
        case "object":
            values = facts.get("additionalProperties")  # true: any
            return f"{{name: {describe_type(values if isinstance(values, dict) else {})}}}"
        case "string":
            return "string"
        case "null":
            return "null"
        case "boolean":
            return "true | false"
        case "integer" | "number" as kind:
            bounds = [f"{_BOUNDS[name]} {facts[name]:g}" for name in _BOUNDS if name in facts]
            return " ".join([kind, ", ".join(bounds)]).strip()
    return "any"
