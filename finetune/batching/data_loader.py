"""From rows to batches on their way to the device.

Rows are encoded and collated in this process or in workers, with the same result.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.errors import DataError
from finetune.model import Batch
from finetune.task import Task
from finetune.task_parts import Length, Row, RowTable, Sample, take_rows

_Found = TypeVar("_Found")
# Names the stream of random numbers, so that encoding and collating never draw the same ones.
_ENCODE, _COLLATE = 1, 2


class Features(Protocol):
    """Features computed before, by the positions of their rows and how often each was drawn."""

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]: ...

    def samples(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class Split:
    """The rows of a split, the length of each for the network, and their features if cached.

    Attributes:
        lengths: int64 [N], in the task's own unit.
    """

    name: str
    rows: RowTable
    lengths: np.ndarray
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.rows)


def measured_split(name: str, rows: Any, task: Task) -> tuple[Split, list[Length], list[str]]:
    """The split of `rows` that have a length, their lengths, and a note if others were left out.

    Raises DataError if none is left.
    """
    lengths = task.lengths(rows)
    kept = [place for place, length in enumerate(lengths) if length.used]
    notes = []
    if len(kept) < len(lengths):
        left_out = f"{len(lengths) - len(kept)} of {len(lengths)} rows"
        if not kept:
            raise DataError(
                f"{name}: of {left_out} nothing is left to learn; let the task read more of a row"
            )
        notes.append(f"{name}: {left_out} are left out, since nothing is left of them to learn")
        rows, lengths = rows.select(kept), [lengths[place] for place in kept]
    used = np.array([length.used for length in lengths], dtype=np.int64)
    return Split(name, rows, used), lengths, notes


def encode_batch(task: Task, rows: Iterable[Row]) -> Batch:
    """One batch of rows without anything random, on the CPU."""
    return task.collate([task.encode(row) for row in rows])


def map_by_length(
    task: Task,
    rows: Sequence[Row],
    lengths: Sequence[Length],
    batch_size: int,
    compute: Callable[[Batch], Sequence[_Found]],
    advance: Callable[[int], None] = lambda _: None,
) -> list[_Found]:
    """What `compute` gives for each row, in order; rows of similar length share a batch.

    `advance` is told how many rows each batch had.
    """
    used = np.array([length.used for length in lengths], dtype=np.int64)
    found: dict[int, _Found] = {}
    for micro_batch in blocks_by_length(used, batch_size):
        batch = encode_batch(task, (rows[index] for index in micro_batch.indices))
        found.update(zip(micro_batch.indices, compute(batch), strict=True))
        advance(len(micro_batch.indices))
    return [found[index] for index in range(len(rows))]


class _Batches(torch.utils.data.Dataset[tuple[MicroBatch, Batch]]):
    """Maps a micro_batch of a plan to its batch.

    What is random depends on the position alone, not on the worker.
    """

    def __init__(self, split: Split, task: Task, seed: int, mixes: bool) -> None:
        self.split = split
        self.task = task
        self.seed = seed
        self.mixes = mixes

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        indices = list(micro_batch.indices)
        # A row that an epoch draws twice is augmented in two ways.
        turns = micro_batch.turns or (
            () if micro_batch.epoch is None else (micro_batch.epoch,) * len(indices)
        )
        if self.split.features is not None:
            samples = self.split.features.samples(indices)
            batch = self.task.collate(samples, self._collating_rng(micro_batch))
            batch["features"] = self.split.features.take(indices, turns)
            return micro_batch, batch
        rows = take_rows(self.split.rows, indices)
        samples = [
            self.task.encode(row, encoding_rng(self.seed, turn, index))
            for index, turn, row in zip(indices, turns or [None] * len(rows), rows, strict=True)
        ]
        return micro_batch, self.task.collate(samples, self._collating_rng(micro_batch))

    def _collating_rng(self, micro_batch: MicroBatch) -> np.random.Generator | None:
        if micro_batch.epoch is None or not self.mixes:
            return None
        return np.random.default_rng([self.seed, micro_batch.step, _COLLATE, micro_batch.slot])


def encoding_rng(seed: int, turn: int | None, index: int) -> np.random.Generator | None:
    """What a row is encoded with: a function of the row and its turn (how often it was drawn
    before: the epoch, where each draws all rows), so the same in any batch.

    Without a turn nothing is random.
    """
    return None if turn is None else np.random.default_rng([seed, turn, _ENCODE, index])


def load_batches(
    split: Split,
    task: Task,
    micro_batches: Iterable[MicroBatch],
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
    mixes: bool = True,
) -> Iterator[tuple[MicroBatch, Batch]]:
    """The batches of `micro_batches` in their order, in the memory of this process.

    They are pinned where a GPU will fetch them. Without `mixes` collating is given no rng:
    features of a row must hold nothing of another.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(split, task, seed, mixes),
        batch_size=None,
        sampler=_OneWay(micro_batches),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # Without its own generator the loader would draw from the global one, which dropout reads.
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=_leave_signals_to_parent,
    )
    return iter(loader)


def _leave_signals_to_parent(_: int) -> None:
    """A terminal or a scheduler signals the whole group, but the parent still needs its batches."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _OneWay(torch.utils.data.Sampler[MicroBatch]):
    """An iterable of micro_batches as the sampler that DataLoader asks for."""

    def __init__(self, micro_batches: Iterable[MicroBatch]) -> None:
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)
