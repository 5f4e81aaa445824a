"""Assignment of rows to steps, processes and micro-batches, as pure functions of the position.

A step has `batch_size` rows for any number of processes; the division into micro-batches affects
time and memory, not the result. No sampler has state, so a run resumes at any step by asking for
that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from finetune.batching.sampling import balanced_rows

# Shuffled rows are sorted by length within this many batches, so that an epoch stays mixed.
BATCHES_SORTED_TOGETHER = 50
# The largest share of padding in a row of a batch that is divided for its sake.
PADDING = 0.08
# What a pass costs beside its rows, in units of length (tokens), since it adds to the gradients of
# all weights: between 50 for a MiniLM and 170 for a T5 of 60 M on a CPU.
PASS_COST = 100
# The current epoch, and the next one, whose first rows the workers prefetch.
EPOCHS_KEPT = 2


@dataclass(frozen=True)
class MicroBatch:
    """The rows that a process computes at once: a micro-batch, or a block of an evaluation."""

    indices: tuple[int, ...]
    step: int = 0
    epoch: int | None = None
    """None: no randomness."""
    slot: int = 0
    """Index of the micro-batch in its step, over all processes."""
    filler: bool = False
    """True for a process that has no rows in this round: these rows must have weight 0."""
    group: int = 0
    """The group of all of these rows, if the plan has groups."""
    turns: tuple[int, ...] = ()
    """Number of times that each row was drawn before; (): once per earlier epoch."""

    @property
    def samples(self) -> list[int]:
        """A number for each row, distinct also where a row is drawn several times in a step."""
        turns = self.turns or (0,) * len(self.indices)
        return [turn << 32 | index for turn, index in zip(turns, self.indices, strict=True)]


@dataclass(frozen=True)
class TrainPlan:
    """The steps of a training run.

    Attributes:
        lengths: lengths of all rows, int64 [N].
        micro_batch_size: maximum number of rows that one process computes at once.
        by_length: True to put rows of similar length into the same batch.
        classes: classes of all rows, int64 [N] from 0, for epochs that draw equally many rows of
            each class; None for epochs that draw each row once.
        groups: groups of all rows, int64 [N] from 0, if a micro-batch may have rows of one only.
        divides: True to divide batches into micro-batches of similar length, so that random ones
            need no more padding than those by length.
    """

    lengths: np.ndarray
    batch_size: int
    micro_batch_size: int
    seed: int
    by_length: bool = True
    processes: int = 1
    classes: np.ndarray | None = None
    groups: np.ndarray | None = None
    divides: bool = False
    _epochs: dict[int, _Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The epochs drawn last, since every step needs its epoch."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def size(self, step: int) -> int:
        """Return the number of rows of a step; the last step of an epoch may have fewer."""
        before = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, len(self.lengths) - before)

    def fewest_rows(self, steps: int) -> int:
        """Return the size of the smallest micro-batch of the first `steps` steps."""
        if self.groups is not None or self.divides:
            return 1
        fewest = []
        for size in {self.size(step) for step in (0, min(steps, self.steps_per_epoch) - 1)}:
            rounds = -(-size // (self.micro_batch_size * self.processes))
            fewest.append(max(size // (rounds * self.processes), 1))
        return min(fewest)

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, longest first."""
        return self._drawn(step)[0]

    def micro_batches(self, step: int, process: int) -> list[MicroBatch]:
        """Return the micro-batches of one process at a step, equally many for every process.

        Rows are distributed by length, so that all processes pad alike and finish together.
        """
        epoch, processes = step // self.steps_per_epoch, self.processes
        rows, turns = self._drawn(step)
        groups = np.zeros(len(rows), dtype=int) if self.groups is None else self.groups[rows]
        taken, first_slot = list[MicroBatch](), 0

        def take(part: np.ndarray, slot: int, group: int, filler: bool = False) -> None:
            indices, before = tuple(rows[part].tolist()), tuple(turns[part].tolist())
            taken.append(MicroBatch(indices, step, epoch, slot, filler, group, before))

        for group in np.unique(groups).tolist():
            places = np.flatnonzero(groups == group)
            rounds = -(-len(places) // (self.micro_batch_size * processes))
            parts = np.array_split(places, min(rounds * processes, len(places)))
            if self.divides:
                parts = [piece for part in parts for piece in self._pieces(part, rows)]
                rounds = -(-len(parts) // processes)
            for slot in range(process, len(parts), processes):
                take(parts[slot], first_slot + slot, group)
            if len(range(process, len(parts), processes)) < rounds:  # by one at most
                take(parts[-1][-1:], first_slot + len(parts) + process, group, filler=True)
            first_slot += len(parts) + processes
        return taken

    def useful_share(self, steps: int, cost: Callable[[Sequence[int]], int]) -> float:
        """Return the ratio of useful to computed units (tokens) in the first `steps` steps.

        `cost` returns the units computed for a batch of rows of given lengths.
        """
        useful = computed = 0
        for step in range(steps):
            for process in range(self.processes):
                for micro_batch in self.micro_batches(step, process):
                    lengths = self.lengths[list(micro_batch.indices)]
                    useful += int(lengths.sum())
                    computed += cost(lengths.tolist())
        return useful / max(computed, 1)

    def _pieces(self, part: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """Divide a part of a batch, whose rows are sorted longest first, so that padded rows and
        passes together cost least.
        """
        lengths, count = self.lengths[rows[part]], len(part)
        costs, starts = np.zeros(count + 1), np.zeros(count + 1, dtype=int)
        for end in range(1, count + 1):  # of the last piece; the best of the rows before are known
            each = costs[:end] + lengths[:end] * np.arange(end, 0, -1) + PASS_COST
            starts[end] = each.argmin()
            costs[end] = each[starts[end]]
        pieces, end = list[np.ndarray](), count
        while end:
            pieces.append(part[starts[end] : end])
            end = starts[end]
        return pieces[::-1]

    def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a step, longest first, and how often each was drawn before."""
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
    """The rows of an epoch [N], how often each was drawn before, and the batches of positions."""

    rows: np.ndarray
    turns: np.ndarray
    batches: list[np.ndarray]


def _batches_of_epoch(
    lengths: np.ndarray, batch_size: int, seed: int, by_length: bool, epoch: int
) -> list[np.ndarray]:
    """Return all batches of an epoch; the incomplete one, if any, comes last."""
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
    """Divide into pieces of `size`; the last one may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def blocks_by_length(
    lengths: np.ndarray, block: int, process: int = 0, processes: int = 1
) -> list[MicroBatch]:
    """Sort rows by length into fixed blocks; return those of a process: block k to k mod P.

    The blocks do not depend on P, so results are bit-identical for any number of processes.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = range(process * block, len(order), processes * block)
    return [
        MicroBatch(tuple(order[start : start + block].tolist()), slot=start // block)
        for start in starts
    ]


def blocks_of_little_padding(lengths: np.ndarray, block: int) -> list[MicroBatch]:
    """Sort rows by length into blocks of at most `block` rows, none padded by over PADDING."""
    order = np.argsort(-lengths, kind="stable")
    blocks, start = list[MicroBatch](), 0
    while start < len(order):
        used = lengths[order[start : start + block]]
        end = start + int((used >= (1 - PADDING) * used[0]).sum())
        blocks.append(MicroBatch(tuple(order[start:end].tolist()), slot=len(blocks)))
        start = end
    return blocks
