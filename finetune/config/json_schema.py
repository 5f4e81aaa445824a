"""JSON schema (draft 2020-12) of a config file, for editors and for validation without this kit.

It allows what `finetune.config.loading` reads: sections as mappings or as scalars, and unique keys
without their section.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from finetune.config.formats import FORMATS
from finetune.config.loading import SCALAR_KEY, SECTIONS
from finetune.config.schema import MethodConfig, TaskConfig

_References = Mapping[Any, dict[str, Any]]  # pydantic model -> {"$ref": its definition}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_USER_CLASS = {"type": "string", "pattern": ":", "description": "file.py:Class or module:Class"}


def config_schema(
    tasks: Mapping[str, type[TaskConfig]],
    methods: Mapping[str, type[MethodConfig]],
    search: type[BaseModel],
    search_leaves: Iterable[str],
) -> dict[str, Any]:
    """Build the schema for these tasks and methods, {name: Config}, and for user-defined ones.

    `search` is the section of a search, and `search_leaves` are those of its keys that may stand
    without it, though other keys of it occur in other sections.
    """
    models = [*tasks.values(), *methods.values(), *SECTIONS.values(), search]
    definitions, rest = models_json_schema([(model, "validation") for model in models])
    task_formats = {each.name for model in tasks.values() for each in model.formats}
    format = rest["$defs"]["DataConfig"]["properties"]["format"]
    format["enum"] = [*FORMATS, *sorted(task_formats - {*FORMATS})]
    references: _References = {model: reference for (model, _), reference in definitions.items()}
    user_section = {"type": "object", "properties": {"name": _USER_CLASS}, "required": ["name"]}
    choices: dict[str, list[dict[str, Any]]] = {
        "task": [{"enum": sorted(tasks)}, _USER_CLASS, user_section],
        "method": [{"enum": sorted(methods)}, _USER_CLASS, user_section],
    }
    choices["task"] += [_named(references[model], name) for name, model in tasks.items()]
    choices["method"] += [_named(references[model], name) for name, model in methods.items()]
    for section, model in SECTIONS.items():
        scalar = [{"type": "string"}] if section in SCALAR_KEY else []
        choices[section] = [*scalar, references[model], {"type": "null"}]
    choices["search"] = [references[search], {"type": "null"}]
    leaves = dict(_leaves(tasks, methods, rest["$defs"], references))
    of_search = rest["$defs"][search.__name__]["properties"]
    leaves |= {key: of_search[key] for key in search_leaves}
    sections = "|".join(choices)
    return {
        "$schema": _DIALECT,
        "title": "Config of a finetune-kit run",
        "type": "object",
        "properties": {**{key: {"anyOf": each} for key, each in choices.items()}, **leaves},
        "patternProperties": {rf"^({sections})\.\w+$": {}},
        "additionalProperties": False,
        "$defs": rest["$defs"],
    }


def _named(reference: dict[str, Any], name: str) -> dict[str, Any]:
    """Restrict a section to this name and require it."""
    return {**reference, "properties": {"name": {"const": name}}, "required": ["name"]}


def _leaves(
    tasks: Mapping[str, type[TaskConfig]],
    methods: Mapping[str, type[MethodConfig]],
    definitions: Mapping[str, Any],
    references: _References,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the keys that occur in one section only, with every schema they have there."""
    sections: dict[str, Iterable[type[BaseModel]]] = {
        "task": tasks.values(),
        "method": methods.values(),
        **{name: [model] for name, model in SECTIONS.items()},
    }
    sections_of_key: dict[str, set[str]] = {}
    schemas_of_key: dict[str, list[Any]] = {}
    for section, models in sections.items():
        for model in models:
            definition = definitions[references[model]["$ref"].rpartition("/")[2]]
            for key, schema in definition["properties"].items():
                sections_of_key.setdefault(key, set()).add(section)
                schemas = schemas_of_key.setdefault(key, [])
                if schema not in schemas:
                    schemas.append(schema)
    for key, homes in sections_of_key.items():
        if len(homes) == 1 and key not in sections:
            schemas = schemas_of_key[key]
            yield key, schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
