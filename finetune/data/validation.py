"""Validation of all rows by the task before training starts.

The faults of all rows are raised as one error, or counted if invalid rows are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datasets import Dataset

from finetune.tables.faults import Faults, OnError
from finetune.task_parts.rows import Fixable
from finetune.task_parts.samples import ROWS_IN_MEMORY, Row, take_rows


def find_valid(
    split: str,
    rows: Dataset,
    validate: Callable[[Sequence[Row]], list[list[str]]],
    on_error: OnError,
    numbers: Sequence[int] | None = None,
    columns: Sequence[str] = (),
    doubtful: Sequence[int] | None = None,
) -> tuple[Sequence[int], list[str]]:
    """Return the positions of the valid rows, and a note if others are skipped or will be clipped.

    `validate` returns a list of faults for each row. `numbers` are the rows' numbers in their file,
    from 1 without the header; None: consecutive. `columns` are the columns to validate, such as the
    inputs for prediction; () for all. `doubtful` are the positions of the only rows that may have a
    fault; None: any may. Raises DataError that lists the faults, unless `on_error` says to skip or
    clip the rows and valid rows remain.
    """
    faults, invalid = Faults(split), set[int]()
    clipped = 0
    read = rows.select_columns(list(columns)) if columns else rows
    places = range(len(rows)) if doubtful is None else doubtful
    for start in range(0, len(places), ROWS_IN_MEMORY):
        part = places[start : start + ROWS_IN_MEMORY]
        some = take_rows(read, part)
        for index, row, messages in zip(part, some, validate(some), strict=True):
            if messages and on_error == "clip" and all(isinstance(m, Fixable) for m in messages):
                clipped += 1
            elif messages:
                number = index + 1 if numbers is None else numbers[index]
                faults.add(_place(split, row, number), *messages)
                invalid.add(index)
    are_fixable = all(isinstance(m, Fixable) for _, messages in faults.rows for m in messages)
    repair = "data.on_error=clip" if are_fixable else ""
    notes = faults.settle(on_error, len(rows), repair)
    if clipped:
        notes.append(f"{split}: {clipped} of {len(rows)} rows will be clipped (data.on_error)")
    valid = range(len(rows))
    return [place for place in valid if place not in invalid] if invalid else valid, notes


def _place(split: str, row: Row, number: int) -> str:
    file = row.get("file")
    return file if isinstance(file, str) and file else f"{split} row {number}"
