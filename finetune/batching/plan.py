"""Which rows make which step, on which process, in which micro-batch.

These are pure functions of the position: a step is `batch_size` rows whatever the number of
processes, and how it is cut changes time and memory, not the result. No sampler holds a state, so a
run goes on from any step by asking for that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from finetune.batching.sampling import balanced_rows

# Rows are shuffled, then sorted by length within so many batches: an epoch stays mixed.
BATCHES_SORTED_TOGETHER = 50
# Of a plan: the one that trains, and the next one, whose first rows workers fetch ahead.
EPOCHS_KEPT = 2


@dataclass(frozen=True)
class MicroBatch:
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
        micro_batch_size: the most rows that one process holds at once.
        by_length: whether rows of similar length share a batch.
        classes: of all rows, int64 [N] from 0, where an epoch draws as many rows of each class;
            None: it draws each row once.
    """

    lengths: np.ndarray
    batch_size: int
    micro_batch_size: int
    seed: int
    by_length: bool = True
    processes: int = 1
    classes: np.ndarray | None = None
    _epochs: dict[int, _Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The epochs that were drawn last, since every step asks for its own."""

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

    def micro_batches(self, step: int, process: int) -> list[MicroBatch]:
        """The micro-batches of one process at a step, as many as every other has.

        Rows are dealt by length, so that all processes pad alike and finish together.
        """
        epoch = step // self.steps_per_epoch
        rows, turns = self._drawn(step)
        rounds = -(-len(rows) // (self.micro_batch_size * self.processes))
        parts = np.array_split(np.arange(len(rows)), min(rounds * self.processes, len(rows)))

        def take(part: np.ndarray, slot: int, filler: bool = False) -> MicroBatch:
            indices, before = tuple(rows[part].tolist()), tuple(turns[part].tolist())
            return MicroBatch(indices, step, epoch, slot, filler, before)

        own = [take(p, slot) for slot, p in enumerate(parts) if slot % self.processes == process]
        if len(own) < rounds:  # by one at most
            own.append(take(parts[-1][-1:], len(parts) + process, filler=True))
        return own

    def useful_share(self, steps: int, cost: Callable[[Sequence[int]], int]) -> float:
        """Useful over computed units (tokens) in the first `steps` steps.

        `cost` says what a batch of rows of some lengths computes.
        """
        useful = computed = 0
        for step in range(steps):
            for process in range(self.processes):
                for micro_batch in self.micro_batches(step, process):
                    lengths = self.lengths[list(micro_batch.indices)]
                    useful += int(lengths.sum())
                    computed += cost(lengths.tolist())
        return useful / max(computed, 1)

    def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a step, longest first, and how often each was drawn before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        drawn = self._epoch(epoch)
        batch = drawn.batches[position]
        batch = batch[np.argsort(-self.lengths[drawn.rows[batch]], kind="stable")]
        return drawn.rows[batch], drawn.turns[batch]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) >= EPOCHS_KEPT:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = self._draw_epoch(epoch)
        return self._epochs[epoch]

    def _draw_epoch(self, epoch: int) -> _Epoch:
        count = len(self.lengths)
        if self.classes is None:
            rows, turns = np.arange(count), np.full(count, epoch)
        else:
            rows, turns = balanced_rows(self.classes, self.seed, epoch)
        batches = _batches_of_epoch(
            self.lengths[rows], self.batch_size, self.seed, self.by_length, epoch
        )
        return _Epoch(rows, turns, batches)


class _Epoch(NamedTuple):
    """The rows that an epoch draws [N], how often each was drawn before, and in which batches."""

    rows: np.ndarray
    turns: np.ndarray
    batches: list[np.ndarray]


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
) -> list[MicroBatch]:
    """Rows sorted by length in fixed blocks, block k for process k mod P.

    The blocks do not depend on P, so any number of processes computes the same bits.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = range(process * block, len(order), processes * block)
    return [
        MicroBatch(tuple(order[start : start + block].tolist()), slot=start // block)
        for start in starts
    ]
