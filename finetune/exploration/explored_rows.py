"""The rows of an exploration, as people see them: texts, labels, and columns to color by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from finetune.audit.shown_rows import text_of
from finetune.data.opening import FIRST_VALUES
from finetune.errors import DataError
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows

_TEXT = 2_000  # characters of a row that its words are taken from
_MOST_VALUES = 30  # of a column that is colored as classes
_MOST_COLUMNS = 12


@dataclass(frozen=True)
class ExploredRows:
    """The rows that were embedded.

    Attributes:
        texts: the text of each row; for a picture the name of its file, or "".
        labels: the label of each row, "" for none; empty if the rows have no labels.
        columns: further columns to color by.
    """

    texts: list[str]
    labels: list[str] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)


def find_labels(task: Task, table: Dataset, *, required: bool) -> Task | None:
    """Return a task that reads the labels of a table, None if it has none.

    Raises DataError instead if labels are `required`.
    """
    labeled = type(task)(task.resolved_)
    try:
        labeled.settle(labeled.rows.resolve(table[:FIRST_VALUES]).keys)
    except DataError:
        if required:
            raise
        return None
    return labeled


def describe_rows(task: Task, table: Dataset, labeled: Task | None) -> ExploredRows:
    """Describe rows, whose labels `labeled` reads."""
    texts: list[str] = []
    labels: list[str] = []
    for start in range(0, len(table), 1024):
        for row in take_rows(table, range(start, min(start + 1024, len(table)))):
            texts.append(text_of(row, task.rows.inputs)[:_TEXT])
            labels += [_label_of(row, labeled)] if labeled is not None else []
    taken = {*task.rows.inputs, *(labeled.rows.targets if labeled is not None else ())}
    columns = _colored_columns(table, taken)
    return ExploredRows(texts, labels if any(labels) else [], columns)


def _label_of(row: Row, task: Task) -> str:
    return ", ".join(task.rows.labels(row))


def _colored_columns(table: Dataset, taken: set[str]) -> dict[str, list[Any]]:
    """Return columns of numbers, and those of few texts."""
    columns: dict[str, list[Any]] = {}
    for name, feature in table.features.items():
        kind = getattr(feature, "dtype", "")
        if name in taken or len(columns) == _MOST_COLUMNS:
            continue
        if kind.startswith(("int", "uint", "float", "bool")):
            columns[name] = list(table[name])
        elif kind in ("string", "large_string"):
            values = list(table[name])
            if 1 < len(set(values)) <= _MOST_VALUES:
                columns[name] = values
    return columns
