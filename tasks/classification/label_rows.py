"""Rows with a label column: detection and validation of the column, and the labels of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from finetune.errors import DataError
from finetune.task_parts import Resolved, Row, Rows
from tasks.classification.label_columns import LABEL_NAMES, counts_rows, find_column
from tasks.classification.label_config import TargetConfig
from tasks.classification.labels import label_text, parse_number, split_labels
from tasks.classification.targets import kind_of_values


class LabelRows(Rows):
    """Rows with a label or a number; subclasses choose the input columns.

    Attributes:
        known: facts about the column learned from the training split: "class_names" of a
            ClassLabel, "delimiter".
    """

    config: TargetConfig

    def __init__(
        self, config: TargetConfig, known: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(config)
        self.known = known

    @property
    def targets(self) -> list[str]:
        return [self.config.label] if self.config.label else []

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

    def validate(self, row: Row) -> Iterator[str]:
        """Yield the faults of a row's label; a row without the column is a row to predict."""
        if self.config.label not in row:
            return
        label = row[self.config.label]
        if self.config.kind == "number":
            if parse_number(label) is None:
                yield f"{self.config.label} is {label!r}, not a number"
        elif self.config.kind == "single" and (label is None or not str(label).strip()):
            yield f"{self.config.label} is missing"

    def labels(self, row: Row) -> tuple[str, ...]:
        value, names = row[self.config.label or ""], self.known.get("class_names")
        if self.config.kind == "number":
            return ()
        if self.config.kind == "several":
            delimiter = self.known.get("delimiter", self.config.delimiter)
            return tuple(split_labels(value, delimiter, names))
        try:
            name = label_text(value, names)
        except DataError:  # learning the labels reports it together with its column
            name = str(value)
        return () if name is None else (name,)

    def truth(self, row: Row) -> Any:
        return row[self.config.label or ""]

    def _resolve_label(self, columns: Mapping[str, Sequence[Any]], taken: set[str]) -> Resolved:
        """Choose the label column, other than those `taken`, and the kind of its values."""
        config, notes = self.config, []
        rest = {k: v for k, v in columns.items() if k not in taken or k == config.label}
        others = [name for name, values in rest.items() if not counts_rows(values)]
        label, note = find_column(config.label, "label", rest, LABEL_NAMES, others)
        notes += [note] if note else []
        kind = config.kind or kind_of_values(columns[label])
        if config.kind is None and kind != "single":
            notes.append(f"kind: {kind}, by the values of column {label!r}")
        return Resolved({"label": label, "kind": kind}, notes)
