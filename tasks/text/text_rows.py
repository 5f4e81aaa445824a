"""Rows with a text, or a pair of texts, and a label.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.errors import DataError
from finetune.task_parts.columns import cells_of, column_windows, holds_text
from finetune.task_parts.rows import Resolved
from finetune.task_parts.samples import Row, RowTable
from tasks.cells.label_values import is_missing
from tasks.classification.label_columns import find_column
from tasks.classification.label_rows import LabelRows
from tasks.text.text_columns import choose_text
from tasks.text.text_config import TextClassificationConfig


class TextRows(LabelRows):
    """Rows of text classification."""

    config: TextClassificationConfig

    @property
    def inputs(self) -> list[str]:
        text = self.config.text or "text"
        return [text] if isinstance(text, str) else text

    @property
    def is_pair(self) -> bool:
        """True if a row is a pair of texts, which the tokenizer encodes together."""
        return len(self.inputs) == 2 and self.config.join is None

    def resolve_inputs(self, columns: Mapping[str, Sequence[Any]]) -> Resolved:
        if self.config.text is not None:
            for name in self.inputs:
                find_column(name, "text", columns, (), ())
            return Resolved({"text": self.config.text}, [])
        text, join, note = choose_text(columns, self.targets)
        if join is None or self.config.join is not None:
            return Resolved({"text": text}, [note])
        return Resolved({"text": text, "join": join}, [note])

    def validate(self, row: Row) -> Iterator[str]:
        yield from self._joined_faults(row) if self._is_joined else self._text_faults(row)
        yield from super().validate(row)

    def identity(self, row: Row) -> Any:
        return tuple(self.texts(row))

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        values = list(value) if isinstance(value, list | tuple) else [value]
        if self._is_joined and len(values) == 1:
            values = [None] * (len(columns) - 1) + values
        if len(values) != len(columns):
            raise DataError(
                f"{self.config.name}: {value!r} does not match the columns {', '.join(columns)}; "
                "pass dicts"
            )
        return dict(zip(columns, values, strict=True))

    def texts(self, row: Row) -> list[Any]:
        """Return the text of a row, or both texts of a pair, as a list."""
        cells = [row.get(column) for column in self.inputs]
        if not self._is_joined:
            return cells
        return [(self.config.join or "").join(str(cell) for cell in cells if not is_missing(cell))]

    def texts_of(self, rows: RowTable | Sequence[Row]) -> Iterator[list[Any]]:
        if self._is_changed or not holds_text(rows, self.inputs):
            return super().texts_of(rows)
        if not self._is_joined:
            return map(list, cells_of(rows, self.inputs))
        cells = cells_of(rows, self.inputs)
        return (self.texts(dict(zip(self.inputs, row, strict=True))) for row in cells)

    def identities_of(self, rows: RowTable | Sequence[Row]) -> Iterator[Any]:
        if self._is_changed:
            return super().identities_of(rows)
        return map(tuple, self.texts_of(rows))

    def doubtful(self, rows: RowTable | Sequence[Row]) -> Sequence[int]:
        labels = self.doubtful_labels(rows)
        if self._is_changed or labels is None or not holds_text(rows, self.inputs):
            return super().doubtful(rows)
        lacks = np.logical_and if self._is_joined else np.logical_or
        windows = column_windows(rows, self.inputs)
        blank = [lacks.reduce([_are_blank(cells) for cells in window]) for window in windows]
        return list(np.flatnonzero(labels | np.concatenate([labels[:0], *blank])).tolist())

    @property
    def _is_changed(self) -> bool:
        """True for a subclass that reads or checks rows in its own way."""
        names = ("validate", "label_faults", "texts", "identity")
        return any(getattr(type(self), name) is not getattr(TextRows, name) for name in names)

    def all_texts(self, rows: RowTable | Sequence[Row]) -> Iterator[str]:
        """Iterate over all texts of the rows."""
        return (text for texts in self.texts_of(rows) for text in texts)

    @property
    def _is_joined(self) -> bool:
        return self.config.join is not None and len(self.inputs) > 1

    def _text_faults(self, row: Row) -> Iterator[str]:
        for column, text in zip(self.inputs, self.texts(row), strict=True):
            if not isinstance(text, str):
                yield f"{column} is {text!r}, not text"
            elif not text.strip():
                yield f"{column} is empty"

    def _joined_faults(self, row: Row) -> Iterator[str]:
        cells = {column: row.get(column) for column in self.inputs}
        known = {column: cell for column, cell in cells.items() if not is_missing(cell)}
        for column, cell in known.items():
            if not isinstance(cell, str):
                yield f"{column} is {cell!r}, not text"
        if not known:
            yield f"{' and '.join(cells)} are empty"


def _are_blank(cells: pa.Array) -> np.ndarray:
    """Return which texts are blank or null, bool [N]."""
    blank = pc.equal(pc.utf8_trim_whitespace(cells), "").fill_null(True)
    return np.asarray(blank.to_numpy(zero_copy_only=False))
