"""The distinct cells of a label column, with their numbers of rows.

A column of millions of rows has few labels: they are read once each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.task_parts.columns import count_cells, is_plain
from tasks.cells.label_values import is_missing


@dataclass(frozen=True)
class CountedCells:
    """Cells in the order of their first row.

    Attributes:
        values: the cells, each once where they are plain.
        counts: the rows of each.
    """

    values: Sequence[Any]
    counts: Sequence[int]

    @classmethod
    def of_column(cls, rows: Any, name: str) -> CountedCells:
        """Count the cells of a column of a Dataset."""
        if is_plain(rows, [name]):
            counts = count_cells(rows, name)
            return cls(list(counts), list(counts.values()))
        return cls.of(rows[name][:])

    @classmethod
    def of(cls, values: Iterable[Any]) -> CountedCells:
        """Take cells as they are, such as lists, which cannot be compared."""
        values = list(values)
        return cls(values, [1] * len(values))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def known(self) -> CountedCells:
        """The cells that are not empty."""
        return self.having(lambda value: not is_missing(value))

    def having(self, condition: Callable[[Any], bool]) -> CountedCells:
        """Return the cells that meet a condition."""
        pairs = [pair for pair in zip(self.values, self.counts, strict=True) if condition(pair[0])]
        return CountedCells([value for value, _ in pairs], [count for _, count in pairs])

    @property
    def at_most_twice(self) -> list[Any]:
        """The cells, those of several rows twice: all that a search for repetitions needs."""
        pairs = zip(self.values, self.counts, strict=True)
        return [value for value, count in pairs for _ in range(min(count, 2))]
