"""The JSON schema (draft 2020-12) of a config file: for editors, and for checks without this kit.

It allows what `finetune.config.loading` reads: a section as a mapping or as the scalar that names
it, and keys without their section where only one section has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from finetune.config.formats import FORMATS
from finetune.config.loading import SCALAR_KEY, SECTIONS
from finetune.config.schema import MethodConfig, TaskConfig

_References = Mapping[Any, dict[str, Any]]  # of each model to its definition
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OWN = {"type": "string", "pattern": ":", "description": "file.py:Class or module:Class"}


def config_schema(
    tasks: Mapping[str, type[TaskConfig]], methods: Mapping[str, type[MethodConfig]]
) -> dict[str, Any]:
    """The schema for some tasks and methods, {name: Config}, and for those in one's own files."""
    schemas = [*tasks.values(), *methods.values(), *SECTIONS.values()]
    references, rest = models_json_schema([(schema, "validation") for schema in schemas])
    own_formats = {each.name for schema in tasks.values() for each in schema.formats}
    format = rest["$defs"]["DataConfig"]["properties"]["format"]
    format["enum"] = [*FORMATS, *sorted(own_formats - {*FORMATS})]
    found: _References = {schema: reference for (schema, _), reference in references.items()}
    own = {"type": "object", "properties": {"name": _OWN}, "required": ["name"]}
    kinds: dict[str, list[dict[str, Any]]] = {
        "task": [{"enum": sorted(tasks)}, _OWN, own],
        "method": [{"enum": sorted(methods)}, _OWN, own],
    }
    kinds["task"] += [_named(found[schema], name) for name, schema in tasks.items()]
    kinds["method"] += [_named(found[schema], name) for name, schema in methods.items()]
    for section, schema in SECTIONS.items():
        scalar = [{"type": "string"}] if section in SCALAR_KEY else []
        kinds[section] = [*scalar, found[schema], {"type": "null"}]
    leaves = dict(_leaves(tasks, methods, rest["$defs"], found))
    dotted = "|".join(kinds)
    return {
        "$schema": _DIALECT,
        "title": "A run of finetune-kit",
        "type": "object",
        "properties": {**{key: {"anyOf": each} for key, each in kinds.items()}, **leaves},
        "patternProperties": {rf"^({dotted})\.\w+$": {}},
        "additionalProperties": False,
        "$defs": rest["$defs"],
    }


def _named(reference: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of this name, which must be written."""
    return {**reference, "properties": {"name": {"const": name}}, "required": ["name"]}


def _leaves(
    tasks: Mapping[str, type[TaskConfig]],
    methods: Mapping[str, type[MethodConfig]],
    definitions: Mapping[str, Any],
    found: _References,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The keys that only one section has, with what they may hold in any of its kinds."""
    sections: dict[str, Iterable[type[BaseModel]]] = {
        "task": tasks.values(),
        "method": methods.values(),
        **{name: [schema] for name, schema in SECTIONS.items()},
    }
    homes: dict[str, set[str]] = {}
    choices: dict[str, list[Any]] = {}
    for section, schemas in sections.items():
        for schema in schemas:
            held = definitions[found[schema]["$ref"].rpartition("/")[2]]
            for key, facts in held["properties"].items():
                homes.setdefault(key, set()).add(section)
                known = choices.setdefault(key, [])
                if facts not in known:
                    known.append(facts)
    for key, where in homes.items():
        if len(where) == 1 and key not in sections:
            yield key, choices[key][0] if len(choices[key]) == 1 else {"anyOf": choices[key]}
