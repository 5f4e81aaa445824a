"""Loading of batches: encode and collate rows, in this process or in workers.

The result does not depend on the number of workers.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.batching.plan import MicroBatch, blocks_by_length, blocks_of_little_padding
from finetune.batching.stored_lengths import recall_lengths
from finetune.distributed.devices import core_count
from finetune.errors import DataError
from finetune.model import Batch
from finetune.task import Task
from finetune.task_parts.samples import Length, Lengths, Row, RowTable, Sample, take_rows

_Result = TypeVar("_Result")
# Each worker is a copy of this process: hundreds more than cores take minutes to start.
WORKERS_PER_CORE = 4
# Part of the seed, so that encoding and collating draw from different random streams.
_ENCODE, _COLLATE = 1, 2

if sys.version_info < (3, 11, 10) and sys.platform != "win32":
    # A worker hangs if a thread of another library, such as gloo, was just entering the interpreter
    # when it was forked (github.com/python/cpython/issues/112275). This waits for such a thread.
    os.register_at_fork(before=sys._current_frames)


class Features(Protocol):
    """Precomputed features of the rows of a split.

    `indices` are positions of rows; `turns` say how often each was drawn before.
    """

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]: ...

    def samples(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class Split:
    """The rows of a split, their lengths as the network reads them, and their cached features.

    Attributes:
        lengths: int64 [N], in the task's unit.
        positions: position of each row, or of the row it is a part of, among the rows that were
            measured; None: consecutive.
        memo: features of these rows that runs which share the split have found or computed.
    """

    name: str
    rows: RowTable
    lengths: np.ndarray
    features: Features | None = None
    positions: Sequence[int] | None = None
    memo: dict[str, Features] = field(default_factory=dict, compare=False, repr=False)

    def numbers(self, given: Sequence[int] | None = None) -> Sequence[int]:
        """Return the numbers of the rows in their table; `given` are those of all its rows."""
        positions = range(len(self)) if self.positions is None else self.positions
        return [position + 1 if given is None else given[position] for position in positions]

    def __len__(self) -> int:
        return len(self.rows)


def measure_split(
    name: str, rows: Any, task: Task, digest: str | None = None
) -> tuple[Split, Lengths, list[str]]:
    """Measure `rows`; return the split of those with a length above 0, their lengths, and notes.

    Skipped rows are noted. `digest` is that of the rows' content, by which lengths are kept. Raises
    DataError if no row is left.
    """
    lengths = recall_lengths(task, digest, len(rows), lambda: Lengths.of(task.lengths(rows)))
    kept: Sequence[int] = range(len(lengths))
    notes = []
    if not lengths.used.all():
        kept = np.flatnonzero(lengths.used).tolist()
        skipped = f"{len(lengths) - len(kept)} of {len(lengths)} rows"
        if not kept:
            raise DataError(
                f"{name}: no trainable target left after truncation in {skipped}; let the task "
                "read more of each row"
            )
        notes.append(f"{name}: {skipped} skipped: no trainable target left after truncation")
        rows, lengths = rows.select(kept), Lengths(lengths.array[kept])
    used = lengths.used.astype(np.int64)
    positions = getattr(rows, "positions", kept if notes else None)
    return Split(name, rows, used, positions=positions), lengths, notes


def encode_batch(task: Task, rows: Iterable[Row]) -> Batch:
    """Encode rows without randomness and collate them into one batch, on the CPU."""
    return task.collate([task.encode(row) for row in rows])


def map_by_length(
    task: Task,
    rows: Sequence[Row],
    lengths: Sequence[Length],
    batch_size: int,
    compute: Callable[[Batch], Sequence[_Result]],
    advance: Callable[[int], None] = lambda _: None,
    *,
    pads_little: bool = False,
) -> list[_Result]:
    """Apply `compute` to batches of rows of similar length; return its results in row order.

    `advance` is called with the number of rows of each finished batch. With `pads_little`, batches
    are smaller where they would be padded much, which saves time where it grows with the elements
    of a batch: on a CPU.
    """
    used = Lengths.of(lengths).used.astype(np.int64)
    results: dict[int, _Result] = {}
    divide = blocks_of_little_padding if pads_little else blocks_by_length
    for micro_batch in divide(used, batch_size):
        batch = encode_batch(task, (rows[index] for index in micro_batch.indices))
        results.update(zip(micro_batch.indices, compute(batch), strict=True))
        advance(len(micro_batch.indices))
    return [results[index] for index in range(len(rows))]


class _Batches(torch.utils.data.Dataset[tuple[MicroBatch, Batch]]):
    """Map-style dataset from the micro-batches of a plan to batches.

    Randomness depends on the position in the run, not on the worker.
    """

    def __init__(self, split: Split, task: Task, seed: int, mixes: bool) -> None:
        self.split = split
        self.task = task
        self.seed = seed
        self.mixes = mixes

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        indices = list(micro_batch.indices)
        # A row that is drawn twice in an epoch is augmented differently each time.
        turns = micro_batch.turns or (
            () if micro_batch.epoch is None else (micro_batch.epoch,) * len(indices)
        )
        if self.split.features is not None:
            samples = self.split.features.samples(indices)
            batch = self.task.collate(samples, self._collate_rng(micro_batch))
            batch["features"] = self.split.features.take(indices, turns)
            return micro_batch, batch
        rows = take_rows(self.split.rows, indices)
        samples = [
            self.task.encode(row, encoding_rng(self.seed, turn, index))
            for index, turn, row in zip(indices, turns or [None] * len(rows), rows, strict=True)
        ]
        return micro_batch, self.task.collate(samples, self._collate_rng(micro_batch))

    def _collate_rng(self, micro_batch: MicroBatch) -> np.random.Generator | None:
        if micro_batch.epoch is None or not self.mixes:
            return None
        return np.random.default_rng([self.seed, micro_batch.step, _COLLATE, micro_batch.slot])


def encoding_rng(seed: int, turn: int | None, index: int) -> np.random.Generator | None:
    """Return the generator for encoding a row: a function of the row and its turn, not its batch.

    The turn is the number of times the row was drawn before, which is the epoch if every epoch
    draws every row once. A turn of None means no randomness.
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
    """Iterate over the batches of `micro_batches` in order, in host memory, pinned for a GPU.

    Without `mixes`, `collate` gets no rng and cannot mix rows: the features of a row must not
    depend on other rows.
    """
    with warnings.catch_warnings():  # of more workers than cores, which wait for a disk at times
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            _Batches(split, task, seed, mixes),
            batch_size=None,
            sampler=_IterableSampler(micro_batches),
            num_workers=usable_workers(workers),
            pin_memory=device.type == "cuda",
            # Without a generator, the loader would draw from the global one, which dropout uses.
            generator=torch.Generator().manual_seed(seed),
            worker_init_fn=_ignore_signals,
        )
        return iter(loader)


def usable_workers(wanted: int) -> int:
    """Return a number of workers that this machine can start in seconds."""
    return min(wanted, WORKERS_PER_CORE * core_count())


def _ignore_signals(_: int) -> None:
    """Ignore signals that are sent to the whole process group, for a graceful shutdown.

    The parent process handles them, and still needs batches of its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _IterableSampler(torch.utils.data.Sampler[MicroBatch]):
    """Wrap an iterable of micro-batches as a sampler for DataLoader."""

    def __init__(self, micro_batches: Iterable[MicroBatch]) -> None:
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)
