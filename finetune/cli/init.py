"""The command `init`: write a starter config, copied from a shipped one or made for a dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from datasets import Dataset

from finetune.cli.arguments import config_and_overrides
from finetune.config.loading import Loaded, load_config
from finetune.config.schema import READING_KEYS
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import parse_value, split_override
from finetune.data.opening import FIRST_VALUES, select_rows, unread_columns
from finetune.data.readers import Tables, check_usable, from_task, read_reference
from finetune.data.roles import find_split
from finetune.data.split_column import divide_by_column
from finetune.errors import AmbiguityError, ConfigError, DataError, raise_for_faults
from finetune.io.references import locate
from finetune.io.table_writer import name_file_in_errors
from finetune.registry import INSTALLED, find_task, task_names
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
    if shipped is not None and overrides:
        raise ConfigError(
            f"init: {name} is copied as it is; give the keys to train instead:"
            f" finetune train {name} {' '.join(overrides)}"
        )
    if shipped is not None:
        text = shipped.read_text(encoding="utf-8")
    else:
        guess = _guess(name, overrides)
        text = _starter_config(guess, target)
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


def _starter_config(guess: _Guess, target: Path) -> str:
    """Compose a config for the data: what was chosen, and the keys that were given."""
    comments = {
        "model": "a hub id, a folder, or pkg://<package>/<path>",
        "method": METHOD_HINT,
    }
    given = given_sections(guess.loaded)
    first = {name: given.pop(name) for name in ("model", "data")}
    method = given.pop("method", guess.loaded.config.method.name)
    sections = {"task": guess.keys, **first, "method": method, **given}
    lines = [f"# {line}" for note in guess.notes for line in note.splitlines()]
    lines += ["#", f"# finetune inspect {target}", f"# finetune train {target} method=full"]
    lines += [f"# All keys: finetune tasks {guess.task}", ""]
    for section, value in sections.items():
        body = yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True).rstrip()
        is_scalar = section in comments and not isinstance(value, Mapping)
        lines.append(f"{body}  # {comments[section]}" if is_scalar else body)
    if not {"validation", "test"} & guess.loaded.config.data.model_fields_set:
        lines += ["# validation: 0.1, test: 0.2 hold out shares of train; default: chosen by size"]
    return "\n".join(lines) + "\n"


def given_sections(loaded: Loaded) -> dict[str, Any]:
    """Return the sections other than the task's with the keys that were given, {section: keys}.

    A section of a name alone is that name.
    """
    values = loaded.config.model_dump(mode="json")
    sections: dict[str, Any] = {}
    for key in loaded.origins:
        section, _, leaf = key.partition(".")
        if section != "task":
            sections.setdefault(section, {})[leaf] = values[section][leaf]
    names = {section: keys["name"] for section, keys in sections.items() if [*keys] == ["name"]}
    return sections | names


@dataclass(frozen=True)
class _Guess:
    """The task that fits a dataset, its keys, and notes about the rows.

    Attributes:
        has_target: True if the task reads a target; plain text to generate has none.
        first_row: the first row as it is read.
    """

    task: str
    keys: dict[str, Any]
    loaded: Loaded
    has_target: bool
    first_row: str
    notes: list[str] = field(default_factory=list)


def _guess(reference: str, words: Sequence[str]) -> _Guess:
    """Choose the task that settles most keys for these columns.

    Tasks that read the format natively, such as COCO, take precedence over those that would read it
    as a table, and tasks that read a target over those that do not. Raises DataError if no task
    fits, or if the target is in doubt.
    """
    chosen = dict(map(split_override, words)).get("task")
    names = sorted(task_names()) if chosen is None else [str(chosen)]
    faults = list[str]()
    configs = [loaded for name in names if (loaded := _load(name, reference, words, faults))]
    if not configs:
        _refuse_keys(faults, len(names))
    tasks = [(find_task(each.config.task.name)(each.config.task), each) for each in configs]
    refusals = list[str]()
    native = list(_native(tasks, reference, refusals))
    if refusals and not native:
        raise DataError("\n  ".join([f"{reference}: no task reads this data:", *refusals]))
    faults += refusals
    if not native:
        shared = read_reference(reference, configs[0].config.data)
        native = [(*each, shared) for each in tasks]
    guesses, doubts = list[_Guess](), list[str]()
    for task, loaded, tables in native:
        try:
            guesses.append(_settle(task, reference, tables, loaded))
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


def _load(name: str, reference: str, words: Sequence[str], faults: list[str]) -> Loaded | None:
    """Return the config of these words for a task; append to `faults` why there is none."""
    given = [f"task={name}", f"data.source={json.dumps(reference)}"]
    if not any(word.startswith(("model=", "model.name=")) for word in words):
        given.append(f"model={_model_of(name)}")
    # As in the other commands that read rows: delimiter is that of a table, not of labels.
    reading = [f"data.{each}" if each.partition("=")[0] in READING_KEYS else each for each in words]
    try:
        return load_config(None, [*given, *reading], INSTALLED)
    except ConfigError as error:
        # The keys of tasks that lack this one would fill the screen.
        lines = [line.strip().partition("; choose from: ")[0] for line in str(error).splitlines()]
        faults += [f"{name}: {line}" for line in lines[1:] or lines]
        return None


def _refuse_keys(faults: Sequence[str], tasks: int) -> NoReturn:
    """Raise ConfigError for keys that no task takes; what all tasks say is said once."""
    counts = Counter(fault.partition(": ")[2] for fault in faults)
    shared = [fault for fault, count in counts.items() if count == tasks]
    raise_for_faults("the command line", shared or faults)
    raise AssertionError("a task without a config has a fault")


def _native(
    tasks: Sequence[tuple[Task, Loaded]], reference: str, refusals: list[str]
) -> Iterator[tuple[Task, Loaded, Tables]]:
    """Yield the tasks whose own formats cover a path, each with the tables that it reads there.

    Append to `refusals` why a task does not read what its format covers.
    """
    path = locate(reference)
    for task, loaded in tasks if path is not None else []:
        config = loaded.config.data
        for each in task.config.formats:
            if path is not None and each.claims(path, config.format):
                try:
                    yield task, loaded, from_task(each.read(path, config), reference)
                except DataError as error:
                    refusals.append(f"{task.name}: {error}")
                break


def _settle(task: Task, reference: str, tables: Tables, loaded: Loaded) -> _Guess:
    """Let a task choose its keys for these rows. Raises DataError if they do not fit it."""
    config = loaded.config.data
    tables = divide_by_column(tables, reference)
    check_usable(tables, "train")
    name = find_split(tables.splits, config.train or "train") or next(iter(tables.splits))
    rows, notes, _ = select_rows(tables.splits[name], reference, config)
    task.settle({k: v for k, v in tables.keys.items() if getattr(task.config, k) is None})
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    settled = task.resolved_.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    first_row = f"first row: {task.rows.describe(rows[0])}"
    size = f"{reference}: {len(tables.splits[name])} rows"
    notes = [size, *tables.notes, *notes, *_describe(rows), *resolved.notes]
    notes += [*unread_columns(rows, task.rows, config), first_row]
    keys = {"name": task.name, **settled}
    return _Guess(task.name, keys, loaded, bool(task.rows.targets), first_row, notes)


def _describe(rows: Dataset) -> list[str]:
    """Describe each column in a line: its types, the number of distinct values, and examples."""
    lines = []
    for name in rows.column_names:
        values = rows[:][name]
        kinds = {type(value).__name__ for value in values if value is not None}
        distinct = {str(value) for value in values}
        few = f": {', '.join(sorted(distinct))}"
        if len(distinct) > FEW or "\n" in few:
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
