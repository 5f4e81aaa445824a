"""The types that pass through a task: rows, samples, statistics and predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # readers of data and configs use these parts without torch
    from torch import Tensor


Row = dict[str, Any]
"""One raw example: {column name: value}."""


@runtime_checkable
class RowTable(Sized, Protocol):
    """Random access to rows: a datasets.Dataset, or anything that reads several rows at once."""

    def __getitems__(self, keys: list[int]) -> list[Row]: ...


def take_rows(rows: RowTable | Sequence[Row], positions: Iterable[int]) -> list[Row]:
    """Read the rows at `positions`; those of a table in one access."""
    if isinstance(rows, RowTable):
        return list(rows.__getitems__(list(positions)))
    return [rows[position] for position in positions]


ROWS_IN_MEMORY = 256
"""Rows that are read at once. Few, since a row may contain the bytes of an image."""


def windows_of(rows: RowTable | Sequence[Row]) -> Iterator[list[Row]]:
    """Yield all rows, some at a time."""
    for start in range(0, len(rows), ROWS_IN_MEMORY):
        yield take_rows(rows, range(start, min(start + ROWS_IN_MEMORY, len(rows))))


def each_row(rows: RowTable | Iterable[Row]) -> Iterator[Row]:
    """Yield all rows, which is several times as fast as iterating a Dataset that was split."""
    return chain.from_iterable(windows_of(rows)) if isinstance(rows, RowTable) else iter(rows)


Sample = dict[str, Any]
"""One encoded example, without batch axis and padding.

"inputs" holds what the network reads, "target" what it should output; an unlabeled row gives no
"target". If features are cached, the engine removes "inputs" before collating.
"""

Stats = dict[str, "Tensor"]
"""Per-sample statistics of a batch, every tensor [B, ...].

Axes after the first may differ between batches; they are padded with 0 when batches are joined, so
a ragged statistic needs its length as another statistic.
"""

Prediction = dict[str, Any]
"""The prediction for one row: JSON-able, in the format of the matching transformers pipeline."""

Rng = np.random.Generator


class Length(NamedTuple):
    """Number of units of a row that the network reads (`used`) and that are truncated (`cut`).

    The unit is `Views.length_unit`. `repeated` of the used ones are read twice: the overlap of
    windows. `cut` may be estimated for a huge row, of which nobody needs its exact number.
    """

    used: int
    cut: int = 0
    repeated: int = 0
    is_estimate: bool = False


class Lengths(Sequence[Length]):
    """The lengths of many rows, in an array: int32 [N, 4], a column for each field."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @classmethod
    def of(cls, lengths: Sequence[Length]) -> Lengths:
        """Convert a list of lengths; an array of them stays as it is."""
        if isinstance(lengths, Lengths):
            return lengths
        return cls(np.array(lengths, dtype=np.int32).reshape(-1, len(Length._fields)))

    @classmethod
    def truncated(cls, sizes: Sequence[int], limit: int, estimated: Sequence[int] = ()) -> Lengths:
        """Return the lengths of rows of these sizes that are truncated to a limit.

        `estimated` are the rows whose size is an estimate.
        """
        array = np.zeros((len(sizes), len(Length._fields)), dtype=np.int32)
        array[:, 0] = np.minimum(sizes, limit)
        array[:, 1] = np.maximum(np.asarray(sizes, dtype=np.int64) - limit, 0)
        array[list(estimated), 3] = 1
        return cls(array)

    @property
    def used(self) -> np.ndarray:
        return self.array[:, 0]

    @property
    def cut(self) -> np.ndarray:
        return self.array[:, 1]

    @property
    def repeated(self) -> np.ndarray:
        return self.array[:, 2]

    @property
    def is_estimate(self) -> np.ndarray:
        estimates: np.ndarray = self.array[:, 3] != 0
        return estimates

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> Length: ...

    @overload
    def __getitem__(self, place: slice) -> Lengths: ...

    def __getitem__(self, place: int | slice) -> Length | Lengths:
        part = self.array[place]
        return Lengths(part) if isinstance(place, slice) else _length(*part.tolist())

    def __iter__(self) -> Iterator[Length]:
        return starmap(_length, self.array.tolist())


def _length(used: int, cut: int, repeated: int, is_estimate: int) -> Length:
    return Length(used, cut, repeated, bool(is_estimate))
