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
    DataConfig,
    FrozenConfig,
    FullConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    OutputConfig,
    PartialConfig,
    RunConfig,
    Section,
    TaskConfig,
    TrainConfig,
)
from finetune.config.shipped import find_config
from finetune.config.yaml import read_yaml, split_override
from finetune.errors import ConfigError, nearest, refuse_all

METHODS: dict[str, type[Section]] = {
    "full": FullConfig,
    "frozen": FrozenConfig,
    "lora": LoraConfig,
    "partial": PartialConfig,
}
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

TaskConfigs = Callable[[str], type[TaskConfig]]


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
        old = held.get("name", LoraConfig().name if section == "method" else value)
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
    task_config: TaskConfigs,
) -> Loaded:
    """A config from a file (or the name of a shipped one, or None) and overrides, which win.

    `task_config` gives the Config of a task by its name. Raises ConfigError with every fault found.
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
    schemas = dict(SECTIONS)
    faults = []
    try:
        schemas["task"] = _find_schema(draft, task_config)
    except ConfigError as error:
        faults, schemas["task"] = [str(error)], _UnknownTask
    draft = _Draft(faults=faults)
    for origin, entries in layers:
        # A name drops the keys of an earlier layer, but its own keys may stand before it.
        for key, value in entries:
            _put_names(draft, key, value, origin)
        for key, value in entries:
            _put(draft, schemas, key, value, origin)
    return Loaded(_check(draft, schemas), draft.origins, draft.notes)


class _UnknownTask(TaskConfig):
    """Stands for a task that was not found, so that the faults of the other sections are told."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


def _find_schema(draft: _Draft, task_config: TaskConfigs) -> type[TaskConfig]:
    if "task" not in draft.values:
        raise ConfigError("task: no task is named; add task=NAME (`finetune tasks` lists them)")
    return task_config(str(draft.values["task"]["name"]))


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
    draft: _Draft, schemas: Mapping[str, type[Section]], key: str, value: Any, origin: str
) -> None:
    section, dot, leaf = key.partition(".")
    known = section in schemas or section == "method"
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
        _put_leaf(draft, schemas, key, value, origin)


def _put_leaf(
    draft: _Draft, schemas: Mapping[str, type[Section]], key: str, value: Any, origin: str
) -> None:
    """A key without its section: its section is found if only one has it."""
    method = draft.values.get("method", {}).get("name", LoraConfig().name)
    fields = {section: schema.model_fields for section, schema in schemas.items()}
    fields["method"] = METHODS[method].model_fields if method in METHODS else {}
    homes = [section for section, names in fields.items() if key in names]
    if len(homes) == 1:
        draft.put(homes[0], key, value, origin)
    elif homes:
        draft.faults.append(
            f"{key}: stands in several sections; "
            f"write {' or '.join(f'{home}.{key}' for home in homes)} ({origin})"
        )
    else:
        others = [name for name, schema in METHODS.items() if key in schema.model_fields]
        if others:
            draft.faults.append(
                f"{key}: method={method} has no such key, "
                f"method={' and '.join(others)} has ({origin})"
            )
            return
        if schemas["task"] is _UnknownTask:
            return  # it may be a key of the task that was not found
        draft.faults.append(f"{key}: unknown key; {meant_key(key, fields)} ({origin})")


def _check(draft: _Draft, schemas: Mapping[str, type[Section]]) -> RunConfig:
    faults = list(draft.faults)
    sections: dict[str, Any] = {}
    method = draft.values.get("method", {}).get("name", LoraConfig().name)
    if method not in METHODS:
        faults.append(
            f"method.name: {method!r} is no method; {nearest(str(method), METHODS)} "
            f"({draft.origins['method.name']})"
        )
    models = {**schemas, "method": METHODS.get(method, Section)}
    fields = {section: schema.model_fields for section, schema in models.items()}
    for section, schema in models.items():
        if schema is Section:
            continue
        values = draft.values.get(section, {})
        if section == "method":
            values = {"name": method, **values}
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
