"""Every row is walked through the task's `validate` before a weight moves."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from finetune.data.faults import Faults, OnError
from finetune.task import Mendable, Row, Task

# Rows in memory at once: an image's bytes may be its row.
TOGETHER = 256


def check_rows(
    split: str,
    rows: Dataset,
    task: Task,
    on_error: OnError,
    numbers: Sequence[int] | None = None,
    columns: Sequence[str] = (),
) -> tuple[Dataset, list[str]]:
    """The rows that can be used, and a note if some were left out.

    `numbers` are the rows' numbers in their file, from 1, a header not counted; None: as here.
    `columns` are those that count, as for a prediction, which reads no label; none named: all.
    Raises DataError with the faults under "stop", and under both if no row is left.
    """
    faults = Faults(split)
    kept: list[int] = []
    mended = 0
    read = rows.select_columns(list(columns)) if columns else rows
    for start in range(0, len(rows), TOGETHER):
        some = read.__getitems__(list(range(start, min(start + TOGETHER, len(rows)))))
        for index, (row, whats) in enumerate(
            zip(some, task.validate_rows(some), strict=True), start
        ):
            if whats and on_error == "clip" and all(isinstance(w, Mendable) for w in whats):
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
