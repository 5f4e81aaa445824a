"""Every row is walked through the task's `validate` before a weight moves; faults are gathered.

Faults of many rows are raised as one error, or counted where rows are left out.
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
# What differs between two faults of one kind: quoted values and numbers. An apostrophe is no quote.
_VALUES = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d+)?")


@dataclass
class Faults:
    """What is wrong with which rows of `subject`, a file or a split."""

    subject: str
    found: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, place: str, *whats: str) -> None:
        self.found.append((place, list(whats)))

    def settle(self, on_error: OnError, total: int) -> list[str]:
        """Raise DataError with the faults, or give a note with their count among `total` rows."""
        if not self.found:
            return []
        count = f"{self.subject}: {len(self.found)} of {total} rows"
        if on_error == "skip" and len(self.found) < total:
            return [f"{count} left out: {self._kinds()}"]
        lines = [f"  {place}: {'; '.join(whats)}" for place, whats in self.found[:SHOWN]]
        if len(self.found) > SHOWN:
            lines.append(f"  and {len(self.found) - SHOWN} more: {self._kinds()}")
        remedy = "mend the rows, or leave them out with data.on_error=skip"
        if len(self.found) >= total:
            remedy = "no row is left to use; mend the rows, or the keys that say how they are read"
        raise DataError("\n".join([f"{count} cannot be used:", *lines, remedy]))

    def _kinds(self) -> str:
        counts = Counter(_VALUES.sub("...", what) for _, whats in self.found for what in whats)
        return ", ".join(f"{what} ({count})" for what, count in counts.most_common(SHOWN))


# Rows in memory at once: an image's bytes may be its row.
TOGETHER = 256


def check_rows(
    split: str,
    rows: Dataset,
    validate: Callable[[Sequence[Row]], list[list[str]]],
    on_error: OnError,
    numbers: Sequence[int] | None = None,
    columns: Sequence[str] = (),
) -> tuple[Dataset, list[str]]:
    """The rows that can be used, and a note if some were left out.

    `validate` gives the faults of some rows, a list for each. `numbers` are the rows' numbers in
    their file, from 1, a header not counted; None: as here. `columns` are those that count, as for
    a prediction, which reads no label; none named: all. Raises DataError with the faults under
    "stop", and under both if no row is left.
    """
    faults = Faults(split)
    kept: list[int] = []
    mended = 0
    read = rows.select_columns(list(columns)) if columns else rows
    for start in range(0, len(rows), TOGETHER):
        some = take_rows(read, range(start, min(start + TOGETHER, len(rows))))
        for index, (row, whats) in enumerate(zip(some, validate(some), strict=True), start):
            if whats and on_error == "clip" and all(isinstance(w, Fixable) for w in whats):
                mended += 1
                kept.append(index)
            elif whats:
                number = index + 1 if numbers is None else numbers[index]
                faults.add(_place(split, row, number), *whats)
            else:
                kept.append(index)
    notes = faults.settle(on_error, len(rows))
    if mended:
        notes.append(f"{split}: {mended} of {len(rows)} rows are mended by cutting (data.on_error)")
    return (rows.select(kept) if faults.found else rows), notes


def _place(split: str, row: Row, number: int) -> str:
    file = row.get("file")
    return file if isinstance(file, str) and file else f"{split} row {number}"
