"""A split made of two: its own rows and those that join it, with the features of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.batching.data_loader import Features, Split
from finetune.task_parts.samples import Row, RowTable, Sample, take_rows


class JoinedRows(Sequence[Row]):
    """The rows of a table, then some of another with cells that are set."""

    def __init__(self, first: RowTable, second: RowTable, chosen: Sequence[int], cells: list[Row]):
        self._first, self._second = first, second
        self._chosen, self._cells = chosen, cells

    def __len__(self) -> int:
        return len(self._first) + len(self._chosen)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return take_rows(self, range(len(self))[key])
        return take_rows(self, [range(len(self))[key]])[0]

    def __getitems__(self, keys: list[int]) -> list[Row]:
        size = len(self._first)
        own = iter(take_rows(self._first, [key for key in keys if key < size]))
        places = [key - size for key in keys if key >= size]
        others = zip(
            take_rows(self._second, [self._chosen[place] for place in places]),
            [self._cells[place] for place in places],
            strict=True,
        )
        joined = ({**row, **cells} for row, cells in others)
        return [next(own) if key < size else next(joined) for key in keys]

    def __iter__(self) -> Iterator[Row]:
        return (self[key] for key in range(len(self)))


class JoinedFeatures:
    """The features of a split, then those of some rows of another, whose targets are set."""

    def __init__(self, first: Split, second: Split, chosen: Sequence[int], targets: list[Any]):
        assert first.features is not None and second.features is not None
        self._first: Features = first.features
        self._second: Features = second.features
        self._size, self._chosen, self._targets = len(first), chosen, targets

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]:
        order = np.asarray(indices)
        when = np.asarray(turns or [0] * len(order))
        own = order < self._size
        parts, places = list[dict[str, Tensor]](), [np.nonzero(own)[0], np.nonzero(~own)[0]]
        if own.any():
            parts.append(self._first.take(order[own].tolist(), when[own].tolist()))
        if not own.all():
            rows = [self._chosen[index - self._size] for index in order[~own].tolist()]
            parts.append(self._second.take(rows, when[~own].tolist()))
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        own = iter(self._first.samples([index for index in indices if index < self._size]))
        places = [index - self._size for index in indices if index >= self._size]
        others = self._second.samples([self._chosen[place] for place in places])
        targets = [self._targets[place] for place in places]
        joined = ({**sample, "target": t} for sample, t in zip(others, targets, strict=True))
        return [next(own) if index < self._size else next(joined) for index in indices]


def join_splits(
    first: Split, second: Split, chosen: Sequence[int], exemplars: Sequence[int], targets: list[str]
) -> Split:
    """Return `first` with the rows `chosen` of `second`.

    Each gets the label of a row of `first`, its exemplar: the cells of the columns `targets`, and
    the encoded target.
    """
    assert first.features is not None
    rows = take_rows(first.rows, exemplars)
    cells = [{name: row[name] for name in targets} for row in rows]
    encoded = [sample["target"] for sample in first.features.samples(exemplars)]
    return replace(
        first,
        rows=JoinedRows(first.rows, second.rows, chosen, cells),
        lengths=np.concatenate([first.lengths, second.lengths[list(chosen)]]),
        features=JoinedFeatures(first, second, chosen, encoded),
        positions=None,
        memo={},
    )
