"""Validation of all rows by the task before training starts.

The faults of all rows are raised as one error, or counted if invalid rows are skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from datasets import Dataset

from finetune.errors import DataError
from finetune.task_parts import Fixable, Row, take_rows

OnError = Literal["stop", "skip", "clip"]

SHOWN = 20
# Rows validated at once. Limited, since a row may contain the bytes of an image.
ROWS_IN_MEMORY = 256
# Quoted values and numbers, masked to group similar faults. An apostrophe does not open a quote.
_VALUES = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d+)?")


@dataclass
class Faults:
    """The invalid rows of a file or a split, with the messages of each."""

    subject: str
    """The file or split."""
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    """(place, messages) of each invalid row."""

    def add(self, place: str, *messages: str) -> None:
        self.rows.append((place, list(messages)))

    def settle(self, on_error: OnError, total: int) -> list[str]:
        """Raise DataError with the faults; under "skip", return a note with their count instead.

        If all `total` rows are invalid, raise in any case.
        """
        if not self.rows:
            return []
        count = f"{self.subject}: {len(self.rows)} of {total} rows"
        if on_error == "skip" and len(self.rows) < total:
            return [f"{count} skipped: {self._kinds()}"]
        lines = [f"  {place}: {'; '.join(messages)}" for place, messages in self.rows[:SHOWN]]
        if len(self.rows) > SHOWN:
            lines.append(f"  and {len(self.rows) - SHOWN} more: {self._kinds()}")
        verb = "is" if len(self.rows) == 1 else "are"
        remedy = "correct the rows, or skip them with data.on_error=skip"
        if len(self.rows) >= total:
            remedy = (
                "no valid row left; correct the rows, or the keys that control how they are read"
            )
        raise DataError("\n".join([f"{count} {verb} invalid:", *lines, remedy]))

    def _kinds(self) -> str:
        counts = Counter(
            _VALUES.sub("...", message) for _, messages in self.rows for message in messages
        )
        return ", ".join(f"{message} ({count})" for message, count in counts.most_common(SHOWN))


def check_rows(
    split: str,
    rows: Dataset,
    validate: Callable[[Sequence[Row]], list[list[str]]],
    on_error: OnError,
    numbers: Sequence[int] | None = None,
    columns: Sequence[str] = (),
) -> tuple[Dataset, list[str]]:
    """Return the valid rows, and a note if some were skipped or will be clipped.

    `validate` returns a list of faults for each row. `numbers` are the rows' numbers in their file,
    from 1 without the header; None: consecutive. `columns` are the columns to validate, such as the
    inputs for prediction; () for all. Raises DataError that lists the faults, unless `on_error`
    says to skip or clip the rows and valid rows remain.
    """
    faults = Faults(split)
    kept: list[int] = []
    clipped = 0
    read = rows.select_columns(list(columns)) if columns else rows
    for start in range(0, len(rows), ROWS_IN_MEMORY):
        some = take_rows(read, range(start, min(start + ROWS_IN_MEMORY, len(rows))))
        for index, (row, messages) in enumerate(zip(some, validate(some), strict=True), start):
            if messages and on_error == "clip" and all(isinstance(m, Fixable) for m in messages):
                clipped += 1
                kept.append(index)
            elif messages:
                number = index + 1 if numbers is None else numbers[index]
                faults.add(_place(split, row, number), *messages)
            else:
                kept.append(index)
    notes = faults.settle(on_error, len(rows))
    if clipped:
        notes.append(f"{split}: {clipped} of {len(rows)} rows will be clipped (data.on_error)")
    return (rows.select(kept) if faults.rows else rows), notes


def _place(split: str, row: Row, number: int) -> str:
    file = row.get("file")
    return file if isinstance(file, str) and file else f"{split} row {number}"
