"""The command `init`: write a starter config, copied from a shipped one or made for a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from finetune.cli.arguments import config_and_overrides
from finetune.config.loading import section_faults
from finetune.config.schema import READING_KEYS, DataConfig
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import parse_value, split_override
from finetune.data.opening import FIRST_VALUES, unread_columns
from finetune.data.readers import Tables, check_usable, from_task, read_reference
from finetune.data.roles import find_split
from finetune.errors import AmbiguityError, ConfigError, DataError, raise_for_faults
from finetune.io.references import locate
from finetune.io.table_writer import name_file_in_errors
from finetune.registry import find_task, task_names
from finetune.task import Task

# Columns with more distinct values than this are described by an example.
FEW = 20
METHOD_HINT = "frozen: train the head only, in minutes; lora, partial, full: train more"


def write_starter(words: Sequence[str], output: Path | None) -> Path:
    """Write a config for NAME|DATA and key=value, and print the next commands.

    Raises ConfigError if the file already exists, DataError if the choice of columns is ambiguous.
    """
    name, overrides = config_and_overrides(words)
    if name is None:
        raise ConfigError(
            "init: name a shipped config or a data file, as in `finetune init bbc-news`"
        )
    shipped = _shipped(name)
    target = output or Path(f"{Path(name.rstrip('/')).stem}.yaml")
    if target.exists():
        raise ConfigError(f"{target}: already exists; remove it, or name another with -o FILE")
    if shipped is not None:
        text = shipped.read_text(encoding="utf-8")
    else:
        guess = _guess(name, dict(map(split_override, overrides)))
        text = _starter_config(name, guess, target)
        print(f"{guess.task}, {guess.first_row}")
    with name_file_in_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(
        f"wrote {target}\n  inspect  finetune inspect {target}\n  train    finetune train {target}"
    )
    return target


def _shipped(name: str) -> Path | None:
    """Find a shipped config unless `name` refers to data. Raises ConfigError if misspelled."""
    if Path(name).exists():
        return None
    try:
        return find_config(name)
    except ConfigError as error:
        if locate(name) is None and "did you mean" in str(error):
            raise
        return None


def _starter_config(reference: str, guess: _Guess, target: Path) -> str:
    """Compose a config for the data at `reference`."""
    sections = {
        "task": {"name": guess.task, **guess.keys},
        "model": _model_of(guess.task),
        "data": {"source": reference, **guess.data},
        "method": "lora",
    }
    comments = {
        "model": "a hub id, a folder, or pkg://<package>/<path>",
        "method": METHOD_HINT,
    }
    lines = [f"# {line}" for line in guess.notes]
    lines += ["#", f"# finetune inspect {target}", f"# finetune train {target} method=full"]
    lines += [f"# All keys: finetune tasks {guess.task}", ""]
    for section, value in sections.items():
        body = yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True).rstrip()
        lines.append(f"{body}  # {comments[section]}" if section in comments else body)
    lines += ["# validation: 0.1, test: 0.2 hold out shares of train; default: chosen by size"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Guess:
    """The task that fits a dataset, its keys, and notes about the rows.

    Attributes:
        has_target: True if the task reads a target; plain text to generate has none.
        first_row: the first row as it is read.
    """

    task: str
    keys: dict[str, Any]
    data: dict[str, Any]
    has_target: bool
    first_row: str
    notes: list[str] = field(default_factory=list)


def _guess(reference: str, keys: Mapping[str, Any]) -> _Guess:
    """Choose the task that settles most keys for these columns.

    Tasks that read the format natively, such as COCO, take precedence over those that would read it
    as a table, and tasks that read a target over those that do not. Raises DataError if no task
    fits, or if the target is in doubt.
    """
    data, task_keys = _by_section(keys)
    raise_for_faults("the command line", section_faults("data", DataConfig, data, "command line"))
    config, faults = DataConfig(**data), list[str]()
    names = [str(keys["task"])] if "task" in keys else sorted(task_names())
    tasks = [task for name in names if (task := _make(name, task_keys, faults))]
    refusals = list[str]()
    native = list(_native(tasks, reference, config, refusals))
    if refusals and not native:
        raise DataError("\n  ".join([f"{reference}: no task reads this data:", *refusals]))
    faults += refusals
    shared = Tables({}) if native else read_reference(reference, config)
    guesses, doubts = list[_Guess](), list[str]()
    for task, tables in native or [(task, shared) for task in tasks]:
        try:
            guesses.append(_settle(task, reference, tables, config, data))
        except AmbiguityError as error:
            doubts.append(f"{task.name}: {error}")
        except DataError as error:
            faults.append(f"{task.name}: {error}")
    if doubts and not any(guess.has_target for guess in guesses):
        others = [f"or read the rows without a target: task={guess.task}" for guess in guesses]
        title = f"can be read in several ways; choose with `finetune init {reference} KEY=VALUE`:"
        raise DataError("\n  ".join([f"{reference}: {title}", *doubts, *others]))
    if not guesses:
        hint = f"name the columns, as in: finetune init {reference} task.text=COLUMN"
        raise DataError("\n".join(["no task fits these columns:", *faults, hint]))
    best = max(guesses, key=lambda guess: (guess.has_target, len(guess.keys)))
    others = [guess.task for guess in guesses if guess.has_target and guess is not best]
    best.notes.extend(f"Another task that reads this data: task={name}" for name in others)
    return best


def _native(
    tasks: Sequence[Task], reference: str, config: DataConfig, refusals: list[str]
) -> Iterator[tuple[Task, Tables]]:
    """Yield the tasks whose own formats cover a path, each with the tables that it reads there.

    Append to `refusals` why a task does not read what its format covers.
    """
    path = locate(reference)
    for task in tasks if path is not None else []:
        for each in task.config.formats:
            if path is not None and each.claims(path, config.format):
                try:
                    yield task, from_task(each.read(path, config), reference)
                except DataError as error:
                    refusals.append(f"{task.name}: {error}")
                break


def _make(name: str, task_keys: dict[str, Any], faults: list[str]) -> Task | None:
    """Create a task with these keys; if they are invalid, append to `faults` and return None."""
    task_class, values = find_task(name), {"name": name, **task_keys}
    messages = section_faults("task", task_class.Config, values, "command line")
    # The keys of tasks that lack this one would fill the screen.
    faults += [f"{name}: {message.partition('; choose from: ')[0]}" for message in messages]
    return None if messages else task_class(task_class.Config(**values))


def _settle(
    task: Task, reference: str, tables: Tables, config: DataConfig, data: dict[str, Any]
) -> _Guess:
    """Let a task choose its keys for these rows. Raises DataError if they do not fit it."""
    check_usable(tables, "train")
    rows = tables.splits[find_split(tables.splits, "train") or next(iter(tables.splits))]
    task.settle({k: v for k, v in tables.keys.items() if getattr(task.config, k) is None})
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    settled = task.resolved_.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    first_row = f"first row: {task.rows.describe(rows[0])}"
    notes = [f"{reference}: {len(rows)} rows", *tables.notes, *_describe(rows), *resolved.notes]
    notes += [*unread_columns(rows, task.rows, config), first_row]
    return _Guess(task.name, settled, data, bool(task.rows.targets), first_row, notes)


def _by_section(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the keys of `data` from those of the task."""
    data, task_keys = {}, {}
    for key, value in keys.items():
        section, dot, leaf = key.rpartition(".")
        if section == "data" or (not dot and key in READING_KEYS):
            data[leaf] = value
        elif key != "task":
            task_keys[leaf] = value
    return data, task_keys


def _describe(rows: Dataset) -> list[str]:
    """Describe each column in a line: its types, the number of distinct values, and examples."""
    lines = []
    for name in rows.column_names:
        values = rows[:][name]
        kinds = {type(value).__name__ for value in values if value is not None}
        distinct = {str(value) for value in values}
        few = f": {', '.join(sorted(distinct))}"
        if len(distinct) > FEW:
            few = f", such as {values[0]!r}"
        few = few if len(few) <= 60 else f"{few[:60]} ..."
        lines.append(f"  {name} ({', '.join(sorted(kinds))}): {len(distinct)} distinct values{few}")
    return lines


def _model_of(task: str) -> str:
    """Return the model of a shipped config of the same task, or "NAME"."""
    for key, path in shipped_configs().items():
        if key.startswith(f"{task}/"):
            model = parse_value(path.read_text(encoding="utf-8"))["model"]
            return str(model["name"] if isinstance(model, Mapping) else model)
    return "NAME"
