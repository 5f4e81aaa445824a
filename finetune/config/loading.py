"""Merging of a config file and overrides into a RunConfig; all errors are reported at once.

A section may be given as a scalar, which is its name, and a key that only one section has may omit
its section. The entries of all layers are collected in a draft, together with their origins, and
then validated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, ValidationError

from finetune.config.aliases import suggest_key
from finetune.config.formats import FORMATS
from finetune.config.schema import (
    DEFAULT_METHOD,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    OutputConfig,
    ReportConfig,
    RunConfig,
    Section,
    TaskConfig,
    TrainConfig,
)
from finetune.config.shipped import find_config
from finetune.config.yaml import read_yaml, split_override
from finetune.errors import ConfigError, mask_marked_secrets, nearest, raise_for_faults

SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "report": ReportConfig,
    "output": OutputConfig,
}
# The key that a section given as a scalar sets. `train` has none: train=news.csv is data.train.
SCALAR_KEY = dict.fromkeys(("task", "model", "method", "optim"), "name")
SCALAR_KEY |= {"data": "source", "output": "dir"}
# Values to try, as the command `search` takes them, and the sections that it takes them in.
_SEVERAL = re.compile(r"\[|(choice|log|range)\s*\(")
_SEARCHED = ("task", "model", "method", "optim", "train")

# Sections whose other keys belong to the named object: a model's revision, or the permission to run
# its code, must not carry over to another model.
NAMED_SECTIONS = ("task", "method", "model")


@dataclass(frozen=True)
class ConfigRegistry:
    """Lookup of the config classes of tasks and methods by name.

    Attributes:
        task, method: functions that return the class; they raise ConfigError for unknown names.
        methods: function that returns the names of all installed methods.
    """

    task: Callable[[str], type[TaskConfig]]
    method: Callable[[str], type[MethodConfig]]
    methods: Callable[[], Iterable[str]]


class Layer(NamedTuple):
    """Entries (key, value) of a config from one origin, such as a file or the command line."""

    origin: str
    entries: list[tuple[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """A validated config, the origins of its values, and notes.

    Attributes:
        origins: {"optim.lr": "command line", ...}; keys not listed have their default.
        notes: sentences about keys that were dropped.
    """

    config: RunConfig
    origins: dict[str, str]
    notes: list[str]


@dataclass
class _Draft:
    """The nested values while they are collected, and the errors found so far."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    given: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """{"optim.lr": ("lr", 1e-3)}: the keys of the layer that is read, as they are written."""

    def give(self, section: str, leaf: str, value: Any, origin: str, written: str) -> None:
        """Put a value of the layer that is read; two ways to write one key must agree.

        Of a word that is repeated, as one does at the end of a command line, the last one counts.
        """
        key = f"{section}.{leaf}"
        first, other = self.given.get(key, (written, value))
        if other is not value and other != value:
            values = f"{first}={other} and {written}={value}"
            if first != written:
                self.faults.append(f"{key}: has two values, {values}; remove one ({origin})")
            else:
                self.notes.append(f"{values} ({origin}): the last one is used")
        self.given[key] = written, value
        self.put(section, leaf, value, origin)

    def put(self, section: str, key: str, value: Any, origin: str) -> None:
        values = self.values.setdefault(section, {})
        old = values.get("name", DEFAULT_METHOD if section == "method" else value)
        if key == "name" and old != value and section in NAMED_SECTIONS:
            dropped = sorted(set(values) - {"name"})
            if dropped:
                keys = ", ".join(f"{section}.{key}" for key in dropped)
                self.notes.append(
                    f"{section}={value} ({origin}) drops keys of {section}={old}: {keys}"
                )
            for old in dropped:
                self.origins.pop(f"{section}.{old}", None)
            values.clear()
        values[key] = value
        self.origins[f"{section}.{key}"] = origin


def load_config(
    source: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
    registry: ConfigRegistry,
) -> Loaded:
    """Load a config from a file or the name of a shipped one, if given; overrides take precedence.

    Raises one ConfigError that lists every error.
    """
    return merge_layers(read_layers(source, overrides), registry)


def read_layers(
    source: str | Path | None, overrides: Sequence[str] | Mapping[str, Any]
) -> list[Layer]:
    """Read the entries of a config file, if given, and of overrides, in order of precedence."""
    layers: list[Layer] = []
    if source is not None:
        path = find_config(source)
        layers.append(Layer(str(path), list(read_yaml(path).items())))
    if isinstance(overrides, Mapping):
        layers.append(Layer("argument", list(overrides.items())))
    else:
        layers.append(Layer("command line", [split_override(text) for text in overrides]))
    return layers


def merge_layers(layers: Sequence[Layer], registry: ConfigRegistry) -> Loaded:
    """Merge layers of entries, later ones taking precedence, and validate the result.

    Raises one ConfigError that lists every error.
    """
    draft = _Draft()
    # Names first: the valid keys depend on the task and the method.
    for origin, entries in layers:
        for key, value in entries:
            _put_names(draft, key, value, origin)
    faults = list[str]()
    schemas = SECTIONS | _named_sections(draft, registry, faults)
    draft = _Draft(faults=faults)
    for origin, entries in layers:
        draft.given.clear()
        # A new name drops the keys of earlier layers, but not those that precede it in its own.
        for key, value in entries:
            _put_names(draft, key, value, origin)
        # Keys without a section belong to the method named so far.
        schemas_here = schemas | _named_sections(draft, registry, [], ("method",))
        for key, value in entries:
            _put(draft, schemas_here, registry, key, value, origin)
    return Loaded(_check(draft, schemas, registry), draft.origins, draft.notes)


class _UnknownTask(TaskConfig):
    """Placeholder for an unknown task, so that errors of the other sections are still reported."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


class _UnknownMethod(MethodConfig):
    """Placeholder for an unknown method."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


def _named_sections(
    draft: _Draft,
    registry: ConfigRegistry,
    faults: list[str],
    sections: Sequence[str] = ("task", "method"),
) -> dict[str, type[Section]]:
    """Find the config classes of the draft's task and method; append errors to `faults`."""
    find = {"task": registry.task, "method": registry.method}
    unknown: dict[str, type[Section]] = {"task": _UnknownTask, "method": _UnknownMethod}
    schemas = dict[str, type[Section]]()
    for section in sections:
        try:
            schemas[section] = find[section](_name_of(draft, section))
        except ConfigError as error:
            faults.append(str(error))
            schemas[section] = unknown[section]
    return schemas


def _name_of(draft: _Draft, section: str) -> str:
    """Return the name of the draft's task or method. Raises ConfigError if there is no task."""
    name = draft.values.get(section, {}).get("name")
    if name is not None:
        return str(name)
    if section == "method":
        return DEFAULT_METHOD
    raise ConfigError("task: no task given; add task=NAME (`finetune tasks` lists them)")


def _put_names(draft: _Draft, key: str, value: Any, origin: str) -> None:
    """Put the name of the task, method or model, if this entry sets one."""
    section, _, leaf = key.partition(".")
    if section not in NAMED_SECTIONS:
        return
    if leaf == "" and isinstance(value, Mapping):
        value, leaf = value.get("name"), "name"
    if leaf in ("", "name") and value is not None:
        draft.put(section, "name", value, origin)


def _put(
    draft: _Draft,
    schemas: Mapping[str, type[Section]],
    registry: ConfigRegistry,
    key: str,
    value: Any,
    origin: str,
) -> None:
    section, dot, leaf = key.partition(".")
    known = section in schemas
    if known and dot:
        draft.give(section, leaf, value, origin, key)
    elif known and isinstance(value, Mapping):
        for leaf, item in value.items():
            draft.give(section, str(leaf), item, origin, f"{section}.{leaf}")
    elif section in SCALAR_KEY and not dot:
        draft.give(section, SCALAR_KEY[section], value, origin, key)
    elif known and value is None and not dot:
        return  # an empty section in YAML
    elif section == "search":
        draft.faults.append(
            f"{key}: only `finetune search` reads this section; remove it, or train with the "
            f"best.yaml in the folder of a search ({origin})"
        )
    else:
        _put_leaf(draft, schemas, registry, key, value, origin)


def _put_leaf(
    draft: _Draft,
    schemas: Mapping[str, type[Section]],
    registry: ConfigRegistry,
    key: str,
    value: Any,
    origin: str,
) -> None:
    """Put a key without a section, if exactly one section has it."""
    fields = {section: schema.model_fields for section, schema in schemas.items()}
    homes = [section for section, names in fields.items() if key in names]
    if len(homes) == 1:
        draft.give(homes[0], key, value, origin, key)
        return
    if homes:
        draft.faults.append(
            f"{key}: ambiguous, several sections have this key; "
            f"write {' or '.join(f'{home}.{key}' for home in homes)} ({origin})"
        )
        return
    if fault := _other_method(key, _name_of(draft, "method"), registry):
        draft.faults.append(f"{key}: {fault} ({origin})")
    elif _UnknownTask not in schemas.values() and _UnknownMethod not in schemas.values():
        # Otherwise the key may belong to the unknown task or method.
        draft.faults.append(f"{key}: unknown key; {suggest_key(key, fields)} ({origin})")
    elif "name" not in draft.values.get("task", {}):
        draft.faults.append(f"{key}: unknown key, unless it is one of the task's ({origin})")


def _other_method(key: str, method: str, registry: ConfigRegistry) -> str:
    """Return an error message if other methods have a key that `method` lacks, else ""."""
    others = [name for name in registry.methods() if key in registry.method(name).model_fields]
    if not others or method in others:
        return ""
    return f"not a key of method={method}, but of method={' and '.join(others)}"


def _check(
    draft: _Draft, schemas: Mapping[str, type[Section]], registry: ConfigRegistry
) -> RunConfig:
    faults = list(draft.faults)
    sections: dict[str, Any] = {}
    fields = {section: schema.model_fields for section, schema in schemas.items()}
    for section, schema in schemas.items():
        values = draft.values.get(section, {})
        if section == "method":
            name = _name_of(draft, section)
            values = {"name": name, **values}
            unknown = values.keys() - schema.model_fields.keys()
            for key in sorted(unknown) if schema is not _UnknownMethod else ():
                if fault := _other_method(key, name, registry):
                    origin = draft.origins[f"method.{key}"]
                    faults.append(f"method.{key}: {fault} ({origin})")
                    del values[key]
        if section == "model" and "name" not in values:
            faults.append(
                "model.name: no pretrained model given; add model=NAME "
                "(a hub id, a folder, pkg://...)"
            )
            continue
        try:
            sections[section] = schema.model_validate(values)
        except ValidationError as error:
            faults += _sentences(section, fields, error, draft.origins)
    if "data" in sections and schemas["task"] is not _UnknownTask:
        origin = draft.origins.get("data.format", "default")
        fault = format_fault(sections["data"].format, schemas["task"])  # type: ignore[arg-type]
        faults += [f"data.format: {fault} ({origin})"] if fault else []
    faults += _secret_faults(draft)
    raise_for_faults("the config", faults)
    return RunConfig(**sections)


def _secret_faults(draft: _Draft) -> Iterable[str]:
    """Yield an error message for each value that contains a token or a password."""
    for section, values in draft.values.items():
        for key, value in values.items():
            if mask_marked_secrets(str(value)) != str(value):
                name = f"{section}.{key}"
                yield (
                    f"{name}: contains a token or a password ({draft.origins[name]}), which would "
                    "be copied to run.json, config.yaml and trackers; remove it. The token of a "
                    "hub is read from HF_TOKEN or `hf auth login`; download other data yourself"
                )


def format_fault(format: str, task: type[TaskConfig]) -> str:
    """Return an error message if the task cannot read this data.format, else ""."""
    known = {*FORMATS, *(each.name for each in task.formats)}
    return "" if format in known else f"unknown format {format!r}; {nearest(format, known)}"


def section_faults(
    section: str, schema: type[Section], values: Mapping[str, Any], origin: str
) -> list[str]:
    """Validate the values of one section, all of the same origin; return the error messages."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        origins = {f"{section}.{key}": origin for key in values}
        return list(_sentences(section, {section: schema.model_fields}, error, origins))
    return []


def _sentences(
    section: str,
    fields: Mapping[str, Collection[str]],
    error: ValidationError,
    origins: Mapping[str, str],
) -> Iterable[str]:
    """Yield one message for each key of `section` that pydantic rejected."""
    by_key: dict[str, list[str]] = {}
    several: set[str] = set()
    for fault in error.errors():
        leaf = str(fault["loc"][0]) if fault["loc"] else ""
        key = f"{section}.{leaf}"
        if fault["type"] == "extra_forbidden":
            by_key[key] = [f"unknown key; {suggest_key(key, fields)}"]
            continue
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        message = message.removeprefix("List ").removesuffix(", unable to parse string as a number")
        message = message.removesuffix(", unable to parse string as an integer")
        message = message.partition(" after validation, ")[0]
        if fault["type"] == "list_type" and isinstance(fault["input"], str):
            message = f"should be a list: {leaf}=[{fault['input']}]"
        by_key.setdefault(key, [f"{fault['input']!r:.80}:"]).append(message)
        is_read = fault["type"] == "value_error"  # such as a list of metrics, one of them unknown
        if section in _SEARCHED and not is_read and _SEVERAL.match(str(fault["input"])):
            several.add(key)
    for key, messages in by_key.items():
        head, *rest = messages
        sentence = f"{key}: {head} {' or '.join(dict.fromkeys(rest))}".rstrip()
        hint = "; `finetune search` tries several values" if key in several else ""
        yield f"{sentence}{hint} ({origins.get(key, 'default')})"
