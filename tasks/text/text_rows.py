"""Rows with a text, or a pair of texts, and a label.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import DataError
from finetune.task_parts import Resolved, Row
from tasks.classification.label_columns import TEXT_NAMES, find_column, prose_columns
from tasks.classification.label_rows import LabelRows
from tasks.text.text_config import TextClassificationConfig


class TextRows(LabelRows):
    """Rows of text classification."""

    config: TextClassificationConfig

    @property
    def inputs(self) -> list[str]:
        text = self.config.text or "text"
        return [text] if isinstance(text, str) else text

    def resolve_inputs(self, columns: Mapping[str, Sequence[Any]]) -> Resolved:
        if isinstance(self.config.text, list):
            pair = [find_column(name, "text", columns, (), ()) for name in self.config.text]
            return Resolved({"text": [name for name, _ in pair]}, [])
        prose = [name for name in prose_columns(columns) if name != self.config.label]
        text, note = find_column(self.config.text, "text", columns, TEXT_NAMES, prose)
        return Resolved({"text": text}, [note] if note else [])

    def validate(self, row: Row) -> Iterator[str]:
        for column, text in zip(self.inputs, self.texts(row), strict=True):
            if not isinstance(text, str):
                yield f"{column} is {text!r}, not text"
            elif not text.strip():
                yield f"{column} is empty"
        yield from super().validate(row)

    def identity(self, row: Row) -> Any:
        return tuple(self.texts(row))

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) != len(columns):
            raise DataError(
                f"{self.config.name}: {value!r} does not match the columns {', '.join(columns)}; "
                "pass dicts"
            )
        return dict(zip(columns, values, strict=True))

    def texts(self, row: Row) -> list[Any]:
        """Return the text of a row, or both texts of a pair, as a list."""
        return [row.get(column) for column in self.inputs]

    def all_texts(self, rows: Iterable[Row]) -> Iterator[str]:
        """Iterate over all texts of the rows."""
        return (text for row in rows for text in self.texts(row))
