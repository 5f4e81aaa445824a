"""Shared by the data tests: an offline hub, and a task with two columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before `datasets` reads it

import pytest

from finetune.config.schema import DataConfig, TaskConfig
from finetune.errors import DataError, nearest
from finetune.task import Task
from finetune.task_parts.rows import Resolved, Rows
from finetune.task_parts.samples import Row


class TextAndLabel(Rows):
    """Rows with the columns text and label; `seen` records the columns passed to `resolve`."""

    seen: ClassVar[dict[str, list[Any]]] = {}

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        self.seen.clear()
        self.seen.update({name: list(values) for name, values in columns.items()})
        for column in ("text", "label"):
            if column not in columns:
                raise DataError(f"task.{column}: no column {column!r}; {nearest(column, columns)}")
        return Resolved({}, ["text is read from 'text'"])

    def validate(self, row: Row) -> Iterator[str]:
        if not (row["text"] or "").strip():
            yield "the text is empty"
        if row["label"] is None or row["label"] == "":
            yield "the label is empty"
        elif row["label"] == "bad":
            yield f"the label {row['label']!r} is unknown"

    def identity(self, row: Row) -> Any:
        return row["text"].strip()

    def labels(self, row: Row) -> tuple[str, ...]:
        return (str(row["label"]),)


class TwoColumns(Task):
    """A classification task that implements only what reading data needs."""

    name = "two-columns"
    Config = TaskConfig
    metric = ("accuracy", "max")

    @property
    def rows(self) -> TextAndLabel:
        return TextAndLabel(self.resolved_)


# Data tests never build the network.
TwoColumns.__abstractmethods__ = frozenset()


@pytest.fixture
def task() -> Task:
    return TwoColumns()


@pytest.fixture
def config() -> DataConfig:
    return DataConfig()
