"""Training on parts of rows, such as tiles of large images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset

from finetune.errors import format_count
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows


class PartRows(Sequence[Row]):
    """Sequence of all parts of all rows; each item is a row plus the keys of one of its parts.

    Rows are read on access; only the keys of the parts are in memory.
    """

    def __init__(self, rows: Dataset, parts: Sequence[Sequence[Row]]) -> None:
        assert len(rows) == len(parts), "rows and parts differ in number"
        self._rows = rows
        self._parts = [(index, part) for index, of_row in enumerate(parts) for part in of_row]

    @property
    def positions(self) -> list[int]:
        """Position of the row of each part."""
        return [index for index, _ in self._parts]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return take_rows(self, range(len(self))[key])
        return take_rows(self, [key])[0]

    def __getitems__(self, keys: list[int]) -> list[Row]:
        chosen = [self._parts[key] for key in keys]
        # Once for all of its parts: a long text has thousands.
        places = list(dict.fromkeys(index for index, _ in chosen))
        rows = dict(zip(places, take_rows(self._rows, places), strict=True))
        return [{**rows[index], **part} for index, part in chosen]

    def __iter__(self) -> Iterator[Row]:
        return (self[key] for key in range(len(self)))

    def select(self, indices: Iterable[int]) -> PartRows:
        """Return the parts at `indices`."""
        chosen = PartRows(self._rows, [()] * len(self._rows))
        chosen._parts = [self._parts[index] for index in indices]
        return chosen


def rows_at_once(task: Task, requested: int) -> int:
    """Return the number of whole rows to evaluate or predict in one batch.

    It is 1 for tasks that train on parts only, since their rows may be of any size.
    """
    return requested if task.parts is None or task.measures_parts else 1


def split_into_parts(
    rows: Dataset, task: Task, name: str = "train"
) -> tuple[Dataset | PartRows, list[str]]:
    """Return the rows that training sees, and a note if they are split into parts.

    `name` is that of the split. The rows are returned as they are if each is its own only part.
    """
    if task.parts is None:
        return rows, []
    of_rows = task.parts(rows)
    if all(len(parts) == 1 and not parts[0] for parts in of_rows):
        return rows, []
    parts = PartRows(rows, of_rows)
    return parts, [
        f"{name}: {format_count(len(rows), 'row')} split into {format_count(len(parts), 'part')}"
    ]
