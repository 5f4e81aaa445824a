"""A split whose rows training sees in parts: tiles of large images, say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset

from finetune.task import Task
from finetune.task_parts import Row, take_rows


class PartRows(Sequence[Row]):
    """Every part of every row, as the row with the keys that the part adds to it.

    Rows are read when they are asked for: only the parts are in memory.
    """

    def __init__(self, rows: Dataset, parts: Sequence[Sequence[Row]]) -> None:
        assert len(rows) == len(parts), "the parts are of other rows"
        self._rows = rows
        self._parts = [(index, part) for index, own in enumerate(parts) for part in own]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return take_rows(self, range(len(self))[key])
        return take_rows(self, [key])[0]

    def __getitems__(self, keys: list[int]) -> list[Row]:
        chosen = [self._parts[key] for key in keys]
        rows = take_rows(self._rows, (index for index, _ in chosen))
        return [{**row, **part} for row, (_, part) in zip(rows, chosen, strict=True)]

    def __iter__(self) -> Iterator[Row]:
        return (self[key] for key in range(len(self)))


def rows_at_once(task: Task, asked: int) -> int:
    """How many whole rows are measured or predicted together.

    One where training sees parts: a row may then be of any size.
    """
    return asked if task.parts is None else 1


def in_parts(rows: Dataset, task: Task) -> tuple[Dataset | PartRows, list[str]]:
    """The rows as training sees them, and a sentence if that is in parts."""
    if task.parts is None:
        return rows, []
    cut = PartRows(rows, task.parts(rows))
    return cut, [f"train: {len(rows)} rows are seen in {len(cut)} parts"]
