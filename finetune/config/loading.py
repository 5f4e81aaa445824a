"""From a file and overrides to a RunConfig: every fault at once, with its place and remedy.

A section given as a scalar means its name, and a leaf that is unique stands without its section.
The entries of all layers are gathered in a draft, with where each value came from, then checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from finetune.config.aliases import meant_key
from finetune.config.formats import FORMATS
from finetune.config.schema import (
    DEFAULT_METHOD,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    OutputConfig,
    RunConfig,
    Section,
    TaskConfig,
    TrainConfig,
)
from finetune.config.shipped import find_config
from finetune.config.yaml import read_yaml, split_override
from finetune.errors import ConfigError, nearest, refuse_all

SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "output": OutputConfig,
}
# What a section given as a scalar means. `train` has no such key: train=news.csv is data.train.
SCALAR_KEY = dict.fromkeys(("task", "model", "method", "optim"), "name")
SCALAR_KEY |= {"data": "source", "output": "dir"}

# Sections whose other keys belong to what is named: a revision, or the consent to run code, of one
# model must not pass to another.
OWN_KEYS = ("task", "method", "model")


@dataclass(frozen=True)
class Kinds:
    """Where the sections of tasks and methods are found by name; they raise ConfigError."""

    task: Callable[[str], type[TaskConfig]]
    method: Callable[[str], type[MethodConfig]]
    methods: Callable[[], Iterable[str]]
    """The names of all installed methods."""


@dataclass(frozen=True)
class Loaded:
    """A checked config, where each value came from, and what was dropped on the way.

    Attributes:
        origins: {"optim.lr": "command line", ...}; a key that is missing has its default.
    """

    config: RunConfig
    origins: dict[str, str]
    notes: list[str]


@dataclass
class _Draft:
    """The nested values while they are gathered, and the faults found so far."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def put(self, section: str, key: str, value: Any, origin: str) -> None:
        held = self.values.setdefault(section, {})
        old = held.get("name", DEFAULT_METHOD if section == "method" else value)
        if key == "name" and old != value and section in OWN_KEYS:
            dropped = sorted(set(held) - {"name"})
            if dropped:
                keys = ", ".join(f"{section}.{key}" for key in dropped)
                self.notes.append(
                    f"{section}={value} ({origin}) drops keys of {section}={old}: {keys}"
                )
            for old in dropped:
                self.origins.pop(f"{section}.{old}", None)
            held.clear()
        held[key] = value
        self.origins[f"{section}.{key}"] = origin


def load_config(
    source: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
    kinds: Kinds,
) -> Loaded:
    """A config from a file (or the name of a shipped one, or None) and overrides, which win.

    `kinds` finds the section of a task or method by its name. Raises ConfigError with every fault
    found.
    """
    layers: list[tuple[str, list[tuple[str, Any]]]] = []
    if source is not None:
        path = find_config(source)
        layers.append((str(path), list(read_yaml(path).items())))
    if isinstance(overrides, Mapping):
        layers.append(("argument", list(overrides.items())))
    else:
        layers.append(("command line", [split_override(text) for text in overrides]))

    draft = _Draft()
    # Names first: which keys the other entries may have depends on the task and the method.
    for origin, entries in layers:
        for key, value in entries:
            _put_names(draft, key, value, origin)
    faults = list[str]()
    schemas = SECTIONS | _named_sections(draft, kinds, faults)
    draft = _Draft(faults=faults)
    for origin, entries in layers:
        # A name drops the keys of an earlier layer, but its own keys may stand before it.
        for key, value in entries:
            _put_names(draft, key, value, origin)
        # The leaves of a layer are those of the method named up to there.
        schemas_here = schemas | _named_sections(draft, kinds, [], ("method",))
        for key, value in entries:
            _put(draft, schemas_here, kinds, key, value, origin)
    return Loaded(_check(draft, schemas), draft.origins, draft.notes)


class _UnknownTask(TaskConfig):
    """Stands for a task that was not found, so that the faults of the other sections are told."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


class _UnknownMethod(MethodConfig):
    """The same for a method."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


def _named_sections(
    draft: _Draft, kinds: Kinds, faults: list[str], sections: Sequence[str] = ("task", "method")
) -> dict[str, type[Section]]:
    """The sections of the task and the method of a draft; what is not found is told in `faults`."""
    find = {"task": kinds.task, "method": kinds.method}
    unknown: dict[str, type[Section]] = {"task": _UnknownTask, "method": _UnknownMethod}
    found = dict[str, type[Section]]()
    for section in sections:
        try:
            found[section] = find[section](_name_of(draft, section))
        except ConfigError as error:
            faults.append(str(error))
            found[section] = unknown[section]
    return found


def _name_of(draft: _Draft, section: str) -> str:
    """The task or the method that a config names."""
    name = draft.values.get(section, {}).get("name")
    if name is not None:
        return str(name)
    if section == "method":
        return DEFAULT_METHOD
    raise ConfigError("task: no task is named; add task=NAME (`finetune tasks` lists them)")


def _put_names(draft: _Draft, key: str, value: Any, origin: str) -> None:
    """Take the name of the task, the method or the model from one entry, if it gives one."""
    section, _, leaf = key.partition(".")
    if section not in OWN_KEYS:
        return
    if leaf == "" and isinstance(value, Mapping):
        value, leaf = value.get("name"), "name"
    if leaf in ("", "name") and value is not None:
        draft.put(section, "name", value, origin)


def _put(
    draft: _Draft,
    schemas: Mapping[str, type[Section]],
    kinds: Kinds,
    key: str,
    value: Any,
    origin: str,
) -> None:
    section, dot, leaf = key.partition(".")
    known = section in schemas
    if known and dot:
        draft.put(section, leaf, value, origin)
    elif known and isinstance(value, Mapping):
        for leaf, item in value.items():
            draft.put(section, str(leaf), item, origin)
    elif section in SCALAR_KEY and not dot:
        draft.put(section, SCALAR_KEY[section], value, origin)
    elif known and value is None and not dot:
        return  # an empty section in YAML
    else:
        _put_leaf(draft, schemas, kinds, key, value, origin)


def _put_leaf(
    draft: _Draft,
    schemas: Mapping[str, type[Section]],
    kinds: Kinds,
    key: str,
    value: Any,
    origin: str,
) -> None:
    """A key without its section: its section is found if only one has it."""
    fields = {section: schema.model_fields for section, schema in schemas.items()}
    homes = [section for section, names in fields.items() if key in names]
    if len(homes) == 1:
        draft.put(homes[0], key, value, origin)
        return
    if homes:
        draft.faults.append(
            f"{key}: stands in several sections; "
            f"write {' or '.join(f'{home}.{key}' for home in homes)} ({origin})"
        )
        return
    others = [name for name in kinds.methods() if key in kinds.method(name).model_fields]
    if others:
        draft.faults.append(
            f"{key}: method={_name_of(draft, 'method')} has no such key, "
            f"method={' and '.join(others)} has ({origin})"
        )
    elif _UnknownTask not in schemas.values() and _UnknownMethod not in schemas.values():
        # Otherwise it may be a key of what was not found.
        draft.faults.append(f"{key}: unknown key; {meant_key(key, fields)} ({origin})")


def _check(draft: _Draft, schemas: Mapping[str, type[Section]]) -> RunConfig:
    faults = list(draft.faults)
    sections: dict[str, Any] = {}
    fields = {section: schema.model_fields for section, schema in schemas.items()}
    for section, schema in schemas.items():
        values = draft.values.get(section, {})
        if section == "method":
            values = {"name": _name_of(draft, section), **values}
        if section == "model" and "name" not in values:
            faults.append(
                "model.name: no pretrained network is named; add model=NAME "
                "(a hub id, a folder, pkg://...)"
            )
            continue
        try:
            sections[section] = schema.model_validate(values)
        except ValidationError as error:
            faults += _sentences(section, fields, error, draft.origins)
    if "data" in sections and schemas["task"] is not _UnknownTask:
        origin = draft.origins.get("data.format", "default")
        found = format_fault(sections["data"].format, schemas["task"])  # type: ignore[arg-type]
        faults += [f"data.format: {found} ({origin})"] if found else []
    refuse_all("the config", faults)
    return RunConfig(**sections)


def format_fault(format: str, task: type[TaskConfig]) -> str:
    """What is wrong with a value of data.format for a task; "" if it is read."""
    known = {*FORMATS, *(each.name for each in task.formats)}
    return "" if format in known else f"unknown format {format!r}; {nearest(format, known)}"


def section_faults(
    section: str, schema: type[Section], values: Mapping[str, Any], origin: str
) -> list[str]:
    """What is wrong with the values of one section that all come from one place."""
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
    """One sentence for each key of `section` that pydantic refused."""
    by_key: dict[str, list[str]] = {}
    for fault in error.errors():
        leaf = str(fault["loc"][0]) if fault["loc"] else ""
        key = f"{section}.{leaf}"
        if fault["type"] == "extra_forbidden":
            by_key[key] = [f"unknown key; {meant_key(key, fields)}"]
            continue
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        by_key.setdefault(key, [f"{fault['input']!r:.80}:"]).append(message)
    for key, messages in by_key.items():
        head, *rest = messages
        origin = origins.get(key, "default")
        yield f"{key}: {head} {' or '.join(dict.fromkeys(rest))}".rstrip() + f" ({origin})"
