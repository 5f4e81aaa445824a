"""Rows with a label: detection and validation of its columns, and the labels of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from finetune.errors import DataError, nearest
from finetune.task_parts.columns import by_cell, is_plain
from finetune.task_parts.rows import Resolved, Rows, shorten
from finetune.task_parts.samples import Row, RowTable
from tasks.cells.indicators import parse_bit
from tasks.cells.label_values import is_missing
from tasks.classification.label_columns import (
    ANSWER_NAMES,
    LABEL_NAMES,
    LIKELY_LABEL_NAMES,
    find_column,
    find_label,
    plain_name,
    refuse_rejected_rows,
)
from tasks.classification.label_config import TargetConfig
from tasks.classification.label_reader import LabelReader, choose_kind
from tasks.classification.labels import parse_number


class LabelRows(Rows):
    """Rows with a label or a number; subclasses choose the input columns.

    Attributes:
        known: facts about the column learned from the training split: "class_names" of a
            ClassLabel, "delimiter", "names".
    """

    config: TargetConfig

    def __init__(
        self, config: TargetConfig, known: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(config)
        self.known = known

    @property
    def targets(self) -> list[str]:
        label = self.config.label
        return list(label) if isinstance(label, list) else [label] if label else []

    @property
    def certainty(self) -> int:
        names = {plain_name(name) for name in self.targets}
        if names.intersection(LABEL_NAMES):
            return 2
        return int(len(names) > 1 or not names.isdisjoint(LIKELY_LABEL_NAMES | ANSWER_NAMES))

    def resolve_inputs(self, columns: Mapping[str, Sequence[Any]]) -> Resolved:
        """Choose the columns that the network reads."""
        raise NotImplementedError

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        keys, notes = self.resolve_inputs(columns)
        if not with_targets:
            return Resolved(keys, notes)
        taken = {*type(self)(self.config.model_copy(update=keys)).inputs, "file"}
        label = self._resolve_label(columns, taken)
        return Resolved(keys | label.keys, notes + label.notes)

    def describe(self, row: Row) -> str:
        read = ", ".join(f"{name} {shorten(row[name])}" for name in self.inputs if name in row)
        if not has_label(self.config, row):
            return read
        name = self.config.label if isinstance(self.config.label, str) else "labels"
        cell = label_cell(self.config, row)
        if self.config.kind == "number":
            return f"{read} -> {name} {shorten(cell)}"
        labels = self.labels(row)
        is_single = self.config.kind == "single" and labels
        return f"{read} -> {name} {shorten(labels[0] if is_single else list(labels))}"

    def validate(self, row: Row) -> Iterator[str]:
        return self.label_faults(row)

    def label_faults(self, row: Row) -> Iterator[str]:
        """Yield the faults of a row's label; a row without the column is a row to predict."""
        config = self.config
        if not any(name in row for name in self.targets):
            return
        if isinstance(config.label, list):
            yield from self._validate_columns(row, config.label)
            return
        label = row[config.label or ""]
        if config.kind == "number":
            if parse_number(label) is None:
                yield f"{config.label} is {label!r}, not a number"
            return
        try:
            if config.kind == "several":
                self._reader.several(label)
            elif config.kind == "single" and self._reader.one(label) is None:
                yield f"{config.label} is missing"
        except DataError as error:
            yield f"{config.label}: {error}"

    def labels(self, row: Row) -> tuple[str, ...]:
        cell = label_cell(self.config, row)
        if self.config.kind == "number":
            return ()
        try:
            if self.config.kind == "several":
                return tuple(self._reader.several(cell))
            name = self._reader.one(cell)
        except DataError:  # learning the labels reports it together with its column
            name = str(cell)
        return () if name is None else (name,)

    def truth(self, row: Row) -> Any:
        if isinstance(self.config.label, list):
            return [row[name] for name in self.config.label]
        return row[self.config.label or ""]

    # ---- the same of all rows of a table: a column of plain cells has few that differ

    def labels_of(self, rows: RowTable | Sequence[Row]) -> Iterator[tuple[str, ...]]:
        name = self.config.label
        if not self._reads_plain_label(rows):
            return super().labels_of(rows)
        return by_cell(rows, str(name), lambda cell: self.labels({str(name): cell}))

    def count_labels(self, rows: RowTable | Sequence[Row]) -> tuple[Counter[str], int]:
        counts, unlabeled = Counter[str](), 0
        for labels, number in Counter(self.labels_of(rows)).items():
            counts.update(dict.fromkeys(labels, number))
            unlabeled += 0 if labels else number
        return counts, unlabeled

    def truths_of(self, rows: RowTable | Sequence[Row]) -> Iterator[Any]:
        if not self._reads_plain_label(rows):
            return super().truths_of(rows)
        return by_cell(rows, str(self.config.label), lambda cell: cell)

    def doubtful_labels(self, rows: RowTable | Sequence[Row]) -> np.ndarray | None:
        """Return whether the label of each row may have a fault, bool [N]; None if unknown."""
        name = self.config.label
        if name is None or not set(self.targets) & set(getattr(rows, "column_names", ())):
            return np.zeros(len(rows), dtype=bool)  # rows to predict
        if not self._reads_plain_label(rows):
            return None
        checked = by_cell(rows, str(name), lambda cell: any(self.label_faults({str(name): cell})))
        return np.fromiter(checked, dtype=bool, count=len(rows))

    def _reads_plain_label(self, rows: RowTable | Sequence[Row]) -> bool:
        """True if labels are those of one column, which can be read at once."""
        label, own = self.config.label, type(self)
        is_changed = own.labels is not LabelRows.labels or own.truth is not LabelRows.truth
        return isinstance(label, str) and not is_changed and is_plain(rows, [label])

    @cached_property
    def _reader(self) -> LabelReader:
        return make_reader(self.config, self.known)

    def _resolve_label(self, columns: Mapping[str, Sequence[Any]], taken: set[str]) -> Resolved:
        """Choose the label column, other than those `taken`, and the kind of its values."""
        config, notes = self.config, []
        configured = config.label
        inputs = taken.difference(self.targets)  # a configured label may be an input, too
        rest = {name: values for name, values in columns.items() if name not in inputs}
        refuse_rejected_rows({k: v for k, v in rest.items() if k not in self.targets})
        if configured is None:
            label, note = find_label(rest)
            notes.append(note)
        else:
            label = configured
            for name in self.targets:
                find_column(name, "label", rest, (), ())
        kind = choose_kind(config, label, columns)
        return Resolved({"label": label, **kind.keys}, [*notes, *kind.notes])

    def _validate_columns(self, row: Row, columns: Sequence[str]) -> Iterator[str]:
        """Yield the faults of columns of zeros and ones."""
        for name in columns:
            if name not in row:
                yield f"{name} is missing; {nearest(name, row)}"
            elif is_missing(row[name]):
                if not self.config.blank_is_no:
                    yield f"{name} is empty; task.blank_is_no=true reads empty cells as no"
            elif parse_bit(row[name]) is None:
                yield f"{name} is {row[name]!r}, neither 0 nor 1"
        chosen = [name for name in columns if parse_bit(row.get(name))]
        if self.config.kind == "single" and len(chosen) != 1:
            ones = ", ".join(chosen) or "none"
            yield f"one column must be 1 for task.kind=single, but there are {len(chosen)}: {ones}"


def has_label(config: TargetConfig, row: Row) -> bool:
    """True if a row has a label. An empty cell has none, except for several: no label applies."""
    if isinstance(config.label, list):
        return all(
            name in row and (config.blank_is_no or not is_missing(row[name]))
            for name in config.label
        )
    name = config.label or ""
    return name in row and (config.kind == "several" or not is_missing(row[name]))


def label_cell(config: TargetConfig, row: Row) -> Any:
    """Return the label of a row as a cell; for columns of zeros and ones, the names of the ones.

    With kind=single the only one.
    """
    if not isinstance(config.label, list):
        return row[config.label or ""]
    names = [name for name in config.label if parse_bit(row[name])]
    return (names[0] if names else None) if config.kind == "single" else names


def make_reader(config: TargetConfig, known: Mapping[str, Any]) -> LabelReader:
    """Return the reader of a config's label cells, given what is `known` of their column."""
    delimiter = known.get("delimiter", config.delimiter)
    return LabelReader(config.labels, known.get("class_names"), delimiter, config.blank_is_no)
