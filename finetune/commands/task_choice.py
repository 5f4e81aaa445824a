"""Choice of the task that fits a dataset, and of its keys, for a starter config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from finetune.config.loading import Loaded
from finetune.data.opening import FIRST_VALUES, unread_columns
from finetune.data.readers import Tables, check_usable, read_by_task, read_reference
from finetune.data.roles import train_rows
from finetune.data.selection import select_rows
from finetune.data.splits import divide_by_column
from finetune.errors import AmbiguityError, DataError, format_count
from finetune.io.references import locate
from finetune.registry import make_task
from finetune.task import Task

# Columns with more distinct values than this are described by an example.
FEW = 20


@dataclass(frozen=True)
class TaskChoice:
    """The task that fits a dataset, its keys, and notes about the rows.

    Attributes:
        targets: the columns of the target.
        certainty: how surely they are the target.
        is_valid: True if the first row is valid for the task: boxes alone are not for segmentation.
        first_row: the first row as it is read, which is among the notes.
        notes: on how the rows were read.
        columns: a line on each column.
    """

    task: str
    keys: dict[str, Any]
    loaded: Loaded
    targets: frozenset[str]
    certainty: int
    is_valid: bool
    first_row: str
    notes: list[str]
    columns: list[str]

    @property
    def has_target(self) -> bool:
        """True if the task reads a target; plain text to generate has none."""
        return bool(self.targets)


def choose_task(reference: str, configs: Sequence[Loaded], faults: list[str]) -> TaskChoice:
    """Choose the task that settles most keys for the columns of a dataset.

    Tasks that read the format natively, such as COCO, take precedence over those that would read it
    as a table, and tasks that read a target over those that do not. Raises DataError if no task
    fits, or if the target is in doubt. `configs` has one config per task, `faults` why other tasks
    have none.
    """
    tasks = [(make_task(each.config.task), each) for each in configs]
    refusals = list[str]()
    native = list(_native(tasks, reference, refusals))
    if refusals and not native:
        raise DataError("\n  ".join([f"{reference}: no task reads this data:", *refusals]))
    faults += refusals
    shares_table = not native
    if not native:
        shared = read_reference(reference, configs[0].config.data)
        native = [(*each, shared) for each in tasks]
    choices, doubts = list[TaskChoice](), list[str]()
    for task, loaded, tables in native:
        try:
            choices.append(_settle(task, reference, tables, loaded))
        except AmbiguityError as error:
            doubts.append(f"{task.name}: {error}")
        except DataError as error:
            faults.append(f"{task.name}: {error}")
    if doubts and not any(choice.has_target for choice in choices):
        others = [f"or read the rows without a target: task={choice.task}" for choice in choices]
        title = f"can be read in several ways; choose with `finetune init {reference} KEY=VALUE`:"
        raise DataError("\n  ".join([f"{reference}: {title}", *doubts, *others]))
    if not choices:
        reasons = {fault.partition(": ")[2] for fault in faults}
        if len(reasons) == 1:  # about the rows, not about the task
            raise DataError(reasons.pop())
        hint = f"name the columns, as in: finetune init {reference} task.text=COLUMN"
        raise DataError("\n".join(["no task fits these columns:", *faults, hint]))
    best = max(choices, key=lambda choice: (choice.has_target, choice.certainty, len(choice.keys)))
    if rivals := [each for each in choices if shares_table and _is_rival(each, best)]:
        readings = [f"task={each.task}: {each.first_row}" for each in (best, *rivals)]
        title = "can be read in several ways; choose one:"
        raise DataError("\n  ".join([f"{reference}: {title}", *readings]))
    usable = [choice for choice in choices if choice.has_target and choice.is_valid]
    others = [choice.task for choice in usable if choice is not best]
    best.notes.extend(f"Another task that reads this data: task={name}" for name in others)
    return best


def _is_rival(choice: TaskChoice, best: TaskChoice) -> bool:
    """True if a task reads another target as surely as the best one."""
    is_as_sure = choice.certainty == best.certainty and choice.is_valid and best.is_valid
    return is_as_sure and choice.has_target and choice.targets.isdisjoint(best.targets)


def _native(
    tasks: Sequence[tuple[Task, Loaded]], reference: str, refusals: list[str]
) -> Iterator[tuple[Task, Loaded, Tables]]:
    """Yield the tasks whose own formats cover a path, each with the tables that it reads there.

    Append to `refusals` why a task does not read what its format covers.
    """
    path = locate(reference)
    for task, loaded in tasks if path is not None else []:
        config = loaded.config.data
        try:
            tables = path and read_by_task(path, reference, config, task.config.formats)
        except DataError as error:
            refusals.append(f"{task.name}: {error}")
        else:
            if tables:
                yield task, loaded, tables


def _settle(task: Task, reference: str, tables: Tables, loaded: Loaded) -> TaskChoice:
    """Let a task choose its keys for these rows. Raises DataError if they do not fit it."""
    config = loaded.config.data
    tables = divide_by_column(tables, reference)
    check_usable(tables, "train")
    chosen, read_notes = train_rows(config, tables, reference, task.config.formats)
    rows, notes, _ = select_rows(chosen, reference, config)
    task.settle({k: v for k, v in tables.keys.items() if getattr(task.config, k) is None})
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    settled = task.resolved_.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    first_row = f"first row: {task.rows.describe(rows[0])}"
    others = [
        f"{name}: {format_count(len(each), 'row')}"
        for name, each in tables.splits.items()
        if each is not chosen
    ]
    others += [f"warning: {name}: {split.reason}" for name, split in tables.unusable.items()]
    notes = [*read_notes, *others, *notes, *resolved.notes]
    notes += [*unread_columns(rows, task.rows, config), first_row]
    keys = {"name": task.name, **settled}
    targets, faults = frozenset(task.rows.targets), task.rows.validate_many([rows[0]])[0]
    notes += [f"the first row is invalid: {'; '.join(faults)}"] if faults else []
    certainty = task.rows.certainty
    facts = (targets, certainty, not faults, first_row, notes, _describe(rows))
    return TaskChoice(task.name, keys, loaded, *facts)


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
