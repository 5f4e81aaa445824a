"""A config to start from: a copy of a shipped one, or one that fits a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.cli.arguments import config_and_overrides
from finetune.config.loading import section_faults
from finetune.config.schema import READING, DataConfig
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import parse_value, split_override
from finetune.data.opening import FIRST_VALUES
from finetune.data.readers import Tables, from_task, read
from finetune.data.roles import find_split
from finetune.errors import ConfigError, DataError, refuse_all
from finetune.io.references import locate
from finetune.io.table_writer import naming
from finetune.registry import find_task, task_names
from finetune.task import Task

# With more distinct values a column is described by an example.
FEW = 20
METHOD_HINT = "frozen: the head alone, in minutes; lora, partial, full: more of the network"


def write_starter(words: Sequence[str], output: Path | None) -> Path:
    """Write a config for NAME|DATA and key=value, and print what to do with it.

    Raises ConfigError if the file is there already, DataError if the columns leave a choice open.
    """
    name, overrides = config_and_overrides(words)
    if name is None:
        raise ConfigError("init: name a shipped config or a data file; `finetune init bbc-news`")
    shipped = _shipped(name)
    target = output or Path(f"{Path(name.rstrip('/')).stem}.yaml")
    if target.exists():
        raise ConfigError(f"{target}: is there already; remove it, or write another with -o FILE")
    if shipped is not None:
        text = shipped.read_text(encoding="utf-8")
    else:
        text = starter_config(name, dict(map(split_override, overrides)), target)
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(f"wrote {target}\n  look   finetune inspect {target}\n  train  finetune train {target}")
    return target


def _shipped(name: str) -> Path | None:
    """The shipped config of this name, unless data have it. Raises ConfigError if misspelt."""
    if Path(name).exists():
        return None
    try:
        return find_config(name)
    except ConfigError as error:
        if locate(name) is None and "did you mean" in str(error):
            raise
        return None


def starter_config(reference: str, keys: Mapping[str, Any], target: Path) -> str:
    """The text of a config for the data behind `reference`; `keys` of task and data are settled."""
    guess = _guess(reference, keys)
    sections = {
        "task": {"name": guess.task, **guess.keys},
        "model": _model_of(guess.task),
        "data": {"source": reference, **guess.data},
        "method": "lora",
    }
    beside = {
        "model": "a hub id, a folder, or pkg://<package>/<path>",
        "method": METHOD_HINT,
    }
    lines = [f"# {line}" for line in guess.notes]
    lines += ["#", f"# finetune inspect {target}", f"# finetune train {target} method=full"]
    lines += [f"# All keys: finetune tasks {guess.task}", ""]
    for section, value in sections.items():
        body = yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True).rstrip()
        lines.append(f"{body}  # {beside[section]}" if section in beside else body)
    lines += ["# validation: 0.1, test: 0.2 cut shares off; without them a share is chosen"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Guess:
    """What was found out about a data set."""

    task: str
    keys: dict[str, Any]
    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def _guess(reference: str, keys: Mapping[str, Any]) -> _Guess:
    """The task that makes most of the columns, and what it settled.

    Tasks that know the format, such as COCO, come before those that would read it as a table.
    """
    data, own = _by_section(keys)
    refuse_all("the command line", section_faults("data", DataConfig, data, "command line"))
    config, faults = DataConfig(**data), list[str]()
    names = [str(keys["task"])] if "task" in keys else sorted(task_names())
    tasks = [task for name in names if (task := _make(name, own, faults))]
    known = list(_known(tasks, reference, config.format))
    shared = Tables({}) if known else read(reference, config)
    found: list[_Guess] = []
    for task, tables in known or [(task, shared) for task in tasks]:
        try:
            found.append(_settle(task, reference, tables, data))
        except DataError as error:
            faults.append(f"{task.name}: {error}")
    if not found:
        hint = f"as in: finetune init {reference} task.text=COLUMN"
        raise DataError("\n".join(["no task fits these columns:", *faults, hint]))
    best = max(found, key=lambda guess: len(guess.keys))
    others = [guess.task for guess in found if known and guess is not best]
    best.notes.extend(f"Another task that reads these data: task={name}" for name in others)
    return best


def _known(tasks: Sequence[Task], reference: str, format: str) -> Iterator[tuple[Task, Tables]]:
    """The tasks that know the format of a path, each with what it reads there."""
    path = locate(reference)
    for task in tasks if path is not None else []:
        for each in task.config.formats:
            if path is not None and each.claims(path, format):
                yield task, from_task(each.read(path), reference)
                break


def _make(name: str, own: dict[str, Any], faults: list[str]) -> Task | None:
    """A task with some keys of its own; None, and a fault more, if it has no such keys."""
    task_class, values = find_task(name), {"name": name, **own}
    found = section_faults("task", task_class.Config, values, "command line")
    faults += [f"{name}: {fault}" for fault in found]
    return None if found else task_class(task_class.Config(**values))


def _settle(task: Task, reference: str, tables: Tables, data: dict[str, Any]) -> _Guess:
    """The keys that a task makes of these rows, and why. Raises DataError if it makes none."""
    rows = tables.splits[find_split(tables.splits, "train") or next(iter(tables.splits))]
    task.settle(tables.keys)
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    settled = task.resolved_.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    notes = [f"{reference}: {len(rows)} rows", *tables.notes, *_describe(rows), *resolved.notes]
    return _Guess(task.name, settled, data, notes)


def _by_section(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of `data` and those of the task."""
    data, own = {}, {}
    for key, value in keys.items():
        section, dot, leaf = key.rpartition(".")
        if section == "data" or (not dot and key in READING):
            data[leaf] = value
        elif key != "task":
            own[leaf] = value
    return data, own


def _describe(rows: Any) -> list[str]:
    """A line for each column: its type, how many values it has, and one of them."""
    lines = []
    for name in rows.column_names:
        values = rows[:][name]
        kinds = {type(value).__name__ for value in values if value is not None}
        distinct = {str(value) for value in values}
        few = ", ".join(sorted(distinct)) if len(distinct) <= FEW else f"such as {values[0]!r}"
        few = few if len(few) <= 60 else f"{few[:60]} ..."
        lines.append(f"  {name} ({', '.join(sorted(kinds))}): {len(distinct)} different, {few}")
    return lines


def _model_of(task: str) -> str:
    """The network of a shipped config of the same task."""
    for key, path in shipped_configs().items():
        if key.startswith(f"{task}/"):
            model = parse_value(path.read_text(encoding="utf-8"))["model"]
            return str(model["name"] if isinstance(model, Mapping) else model)
    return "NAME"
