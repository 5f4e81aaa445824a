"""What the checks read of the rows of a split: once, and together for all checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.analysis.near_pictures import SIDE
from finetune.data.opening import Splits
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import Row, each_row, take_rows, windows_of


@dataclass(frozen=True)
class CheckedRows:
    """The rows of a split, and what the task's `Rows` say about them; all of it in row order.

    Attributes:
        numbers: of the rows in their table, from 1.
    """

    name: str
    rows: Dataset
    numbers: Sequence[int]
    task_rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def identities(self) -> list[Hashable]:
        """Keys of the rows' content."""
        return self.task_rows.content_keys(self.rows)

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """Labels of the rows, without repetition."""
        return list(self.task_rows.labels_of(self.rows))

    @cached_property
    def texts(self) -> list[list[str]]:
        """Texts of the rows; [] for each of a task that reads none."""
        return list(self.each_texts())

    @cached_property
    def sizes(self) -> list[tuple[int, int] | None]:
        """Heights and widths of the pictures."""
        return list(self._each(self.task_rows.size))

    @cached_property
    def thumbnails(self) -> list[np.ndarray | None]:
        """Gray versions of the pictures, decoded in threads."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return [
                picture
                for rows in windows_of(self.rows)
                for picture in pool.map(lambda row: self.task_rows.thumbnail(row, SIDE), rows)
            ]

    @cached_property
    def has_texts(self) -> bool:
        """True if the task reads texts, judged by the first row."""
        return any(self.task_rows.texts(row) for row in self._first())

    @cached_property
    def has_pictures(self) -> bool:
        """True if the task reads pictures, judged by the first row."""
        return any(self.task_rows.size(row) is not None for row in self._first())

    def _first(self) -> list[Row]:
        return take_rows(self.rows, range(min(len(self.rows), 1)))

    def numbers_at(self, positions: Iterable[int]) -> list[int]:
        """Return the numbers of the rows at these positions."""
        return [int(self.numbers[position]) for position in positions]

    def each_texts(self) -> Iterator[list[str]]:
        """Yield the texts of each row, without keeping them."""
        for texts in self.task_rows.texts_of(self.rows):
            yield [text for text in texts if isinstance(text, str)]

    def _each(self, function: Callable[[Row], Any]) -> Iterator[Any]:
        return map(function, each_row(self.rows))


def checked_splits(splits: Splits, task_rows: Rows) -> list[CheckedRows]:
    """Return the splits to check, train first."""
    return [
        CheckedRows(name, rows, splits.numbers[name], task_rows)
        for name, rows in splits.named.items()
    ]


def list_rows(numbers: Sequence[int], most: int = 5) -> str:
    """Name a few rows: "rows 3, 17, 20 and 4 more"."""
    shown = ", ".join(map(str, numbers[:most]))
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
