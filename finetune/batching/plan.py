"""Which rows make which step, on which process, in which micro-batch.

These are pure functions of the position: a step is `batch_size` rows whatever the number of
processes, and how it is cut changes time and memory, not the result. No sampler holds a state, so a
run goes on from any step by asking for that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from finetune.batching.sampling import balanced_rows

# Rows are shuffled, then sorted by length within so many batches: an epoch stays mixed.
BATCHES_SORTED_TOGETHER = 50


@dataclass(frozen=True)
class Piece:
    """What one process holds at once: the rows of a micro-batch, or of a block of an evaluation."""

    indices: tuple[int, ...]
    step: int = 0
    epoch: int | None = None
    """None: nothing is random."""
    slot: int = 0
    """Which micro-batch of its step, over all processes."""
    filler: bool = False
    """Rows of a process that has none of this step: they must weigh 0."""
    turns: tuple[int, ...] = ()
    """How often each row was drawn before; none: as often as there were epochs."""


@dataclass(frozen=True)
class TrainPlan:
    """The steps of a training run.

    Attributes:
        lengths: of all rows, int64 [N].
        micro_batch: the most rows that one process holds at once.
        by_length: whether rows of similar length share a batch.
        classes: of all rows, int64 [N] from 0, where an epoch draws as many rows of each class;
            None: it draws each row once.
    """

    lengths: np.ndarray
    batch_size: int
    micro_batch: int
    seed: int
    by_length: bool = True
    processes: int = 1
    classes: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def size(self, step: int) -> int:
        """How many rows a step has: the last one of an epoch may have fewer."""
        before = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, len(self.lengths) - before)

    def rows(self, step: int) -> np.ndarray:
        """The rows of a step, longest first."""
        return self._drawn(step)[0]

    def pieces(self, step: int, process: int) -> list[Piece]:
        """The micro-batches of one process at a step, as many as every other has.

        Rows are dealt by length, so that all processes pad alike and finish together.
        """
        epoch = step // self.steps_per_epoch
        rows, turns = self._drawn(step)
        rounds = -(-len(rows) // (self.micro_batch * self.processes))
        parts = np.array_split(np.arange(len(rows)), min(rounds * self.processes, len(rows)))

        def piece(part: np.ndarray, slot: int, filler: bool = False) -> Piece:
            indices, before = tuple(rows[part].tolist()), tuple(turns[part].tolist())
            return Piece(indices, step, epoch, slot, filler, before)

        own = [piece(p, slot) for slot, p in enumerate(parts) if slot % self.processes == process]
        if len(own) < rounds:  # by one at most
            own.append(piece(parts[-1][-1:], len(parts) + process, filler=True))
        return own

    def useful_share(self, steps: int, cost: Callable[[Sequence[int]], int]) -> float:
        """Useful over computed units (tokens) in the first `steps` steps.

        `cost` says what a batch of rows of some lengths computes.
        """
        useful = computed = 0
        for step in range(steps):
            for process in range(self.processes):
                for piece in self.pieces(step, process):
                    lengths = self.lengths[list(piece.indices)]
                    useful += int(lengths.sum())
                    computed += cost(lengths.tolist())
        return useful / max(computed, 1)

    def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a step, longest first, and how often each was drawn before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        keys = _Key(self.lengths), _Key(self.classes)
        drawn = _draw_epoch(*keys, self.batch_size, self.seed, self.by_length, epoch)
        batch = drawn.batches[position]
        batch = batch[np.argsort(-self.lengths[drawn.rows[batch]], kind="stable")]
        return drawn.rows[batch], drawn.turns[batch]


class _Key:
    """An array as the key of a cache: by identity, since a plan never changes its arrays."""

    def __init__(self, array: np.ndarray | None) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.array is other.array


class _Epoch(NamedTuple):
    """The rows that an epoch draws [N], how often each was drawn before, and in which batches."""

    rows: np.ndarray
    turns: np.ndarray
    batches: list[np.ndarray]


@lru_cache(maxsize=4)
def _draw_epoch(
    lengths: _Key, classes: _Key, batch_size: int, seed: int, by_length: bool, epoch: int
) -> _Epoch:
    assert lengths.array is not None
    count = len(lengths.array)
    if classes.array is None:
        rows, turns = np.arange(count), np.full(count, epoch)
    else:
        rows, turns = balanced_rows(classes.array, seed, epoch)
    batches = _batches_of_epoch(lengths.array[rows], batch_size, seed, by_length, epoch)
    return _Epoch(rows, turns, batches)


def _batches_of_epoch(
    lengths: np.ndarray, batch_size: int, seed: int, by_length: bool, epoch: int
) -> list[np.ndarray]:
    """All batches of an epoch; the incomplete one, if any, comes last."""
    rng = np.random.default_rng([seed, epoch, 0x0DE5])
    order = rng.permutation(len(lengths))
    if not by_length:
        return _cut(order, batch_size)
    together = batch_size * BATCHES_SORTED_TOGETHER
    chunks = _cut(order, together)
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in chunks])
    batches = _cut(order, batch_size)
    whole = [batch for batch in batches if len(batch) == batch_size]
    return [whole[index] for index in rng.permutation(len(whole))] + batches[len(whole) :]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of `size`; the last one may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def blocks_by_length(
    lengths: np.ndarray, block: int, process: int = 0, processes: int = 1
) -> list[Piece]:
    """Rows sorted by length in fixed blocks, block k for process k mod P.

    The blocks do not depend on P, so any number of processes computes the same bits.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = range(process * block, len(order), processes * block)
    return [
        Piece(tuple(order[start : start + block].tolist()), slot=start // block) for start in starts
    ]
