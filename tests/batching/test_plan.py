"""The batch plan: every epoch has each row once, for any number of processes and micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.batching.plan import (
    PADDING,
    PASS_COST,
    TrainPlan,
    blocks_by_length,
    blocks_of_little_padding,
)

SHAPES = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 150),
        "batch_size": st.integers(1, 40),
        "micro_batch_size": st.integers(1, 50),
        "processes": st.integers(1, 9),
        "by_length": st.booleans(),
        "divides": st.booleans(),
        "seed": st.integers(0, 3),
    }
)
few_examples = settings(max_examples=60, deadline=None)


def plan_of(rows: int, seed: int, **arguments: int) -> TrainPlan:
    lengths = np.random.default_rng(seed).integers(1, 100, rows)
    return TrainPlan(lengths, seed=seed, **arguments)  # type: ignore[arg-type]


def micro_batches_of(plan: TrainPlan, step: int) -> list[list[tuple[int, ...]]]:
    """Return the rows of the micro-batches of each process, without fillers."""
    by_process = [plan.micro_batches(step, process) for process in range(plan.processes)]
    return [
        [micro_batch.indices for micro_batch in micro_batches if not micro_batch.filler]
        for micro_batches in by_process
    ]


@few_examples
@given(SHAPES, st.integers(0, 2))
def test_plan_visits_each_row_once_per_epoch(shape: dict[str, int], epoch: int) -> None:
    plan = plan_of(**shape)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    seen = [
        i
        for step in steps
        for micro_batches in micro_batches_of(plan, step)
        for micro_batch in micro_batches
        for i in micro_batch
    ]
    assert sorted(seen) == list(range(shape["rows"]))


@few_examples
@given(SHAPES, st.integers(0, 40))
def test_plan_gives_a_step_the_same_rows_however_it_is_divided(
    shape: dict[str, int], step: int
) -> None:
    plan = plan_of(**shape)
    whole = plan_of(**{**shape, "processes": 1, "micro_batch_size": shape["batch_size"]})
    divided = [
        i
        for micro_batches in micro_batches_of(plan, step)
        for micro_batch in micro_batches
        for i in micro_batch
    ]
    assert sorted(divided) == sorted(whole.rows(step).tolist())
    assert len(divided) == plan.size(step) == len(plan.rows(step))


@few_examples
@given(SHAPES, st.integers(0, 40))
def test_micro_batches_fit_and_are_equally_many_per_process(
    shape: dict[str, int], step: int
) -> None:
    plan = plan_of(**shape)
    by_process = [plan.micro_batches(step, process) for process in range(plan.processes)]
    assert all(by_process)
    every = [micro_batch for micro_batches in by_process for micro_batch in micro_batches]
    assert all(0 < len(micro_batch.indices) <= plan.micro_batch_size for micro_batch in every)
    assert all(micro_batch.step == step for micro_batch in every)
    # All processes gather sharded weights together.
    assert len({len(micro_batches) for micro_batches in by_process}) == 1
    # Collating draws random numbers by slot, so slots must be unique.
    slots = [micro_batch.slot for micro_batch in every]
    assert len(set(slots)) == len(slots)


@few_examples
@given(SHAPES)
def test_micro_batches_have_a_filler_only_for_processes_without_rows(shape: dict[str, int]) -> None:
    plan = plan_of(**shape)
    for step in range(plan.steps_per_epoch):
        for process in range(plan.processes):
            micro_batches = plan.micro_batches(step, process)
            if any(micro_batch.filler for micro_batch in micro_batches):
                assert [micro_batch.filler for micro_batch in micro_batches[:-1]] == [False] * (
                    len(micro_batches) - 1
                )
                count = sum(map(len, micro_batches_of(plan, step)))
                assert count < plan.processes * len(micro_batches)
                assert plan.divides or plan.size(step) < plan.processes * len(micro_batches)


@few_examples
@given(SHAPES, st.integers(1, 4))
def test_plan_with_groups_separates_them_in_the_same_steps(
    shape: dict[str, int], groups: int
) -> None:
    mixed = plan_of(**shape)
    group_of = np.arange(len(mixed.lengths)) % groups
    plan = replace(mixed, groups=group_of)
    for step in range(plan.steps_per_epoch):
        by_process = [plan.micro_batches(step, rank) for rank in range(plan.processes)]
        every = [micro_batch for some in by_process for micro_batch in some]
        rows = [row for each in every if not each.filler for row in each.indices]
        assert sorted(rows) == sorted(mixed.rows(step).tolist())
        assert all(group_of[row] == each.group for each in every for row in each.indices)
        assert len({len(some) for some in by_process}) == 1
        assert len({each.slot for each in every}) == len(every)


@few_examples
@given(SHAPES)
def test_plan_has_full_batches_except_the_last_of_an_epoch(shape: dict[str, int]) -> None:
    plan = plan_of(**shape)
    sizes = [plan.size(step) for step in range(plan.steps_per_epoch)]
    assert all(size == min(plan.batch_size, shape["rows"]) for size in sizes[:-1])


def test_plan_order_depends_on_seed_and_epoch_only() -> None:
    sizes = {"batch_size": 8, "micro_batch_size": 8}
    first = [plan_of(60, 1, **sizes).rows(step).tolist() for step in range(16)]
    assert first == [plan_of(60, 1, **sizes).rows(step).tolist() for step in range(16)]
    assert first[:8] != first[8:]
    lengths = np.random.default_rng(1).integers(1, 100, 60)
    other = TrainPlan(lengths, seed=2, **sizes)
    assert first != [other.rows(step).tolist() for step in range(16)]


def test_plan_by_length_reduces_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    arguments = {"batch_size": 32, "micro_batch_size": 32, "seed": 0}
    steps = TrainPlan(lengths, **arguments).steps_per_epoch

    def padded(some: Sequence[int]) -> int:
        return max(some) * len(some)

    by_length = TrainPlan(lengths, **arguments).useful_share(steps, padded)
    shuffled = TrainPlan(lengths, **arguments, by_length=False).useful_share(steps, padded)
    assert by_length > 0.95
    assert shuffled < 0.6
    divided = TrainPlan(lengths, **arguments, by_length=False, divides=True)
    assert divided.useful_share(steps, padded) > 0.8
    assert (
        divided.rows(3).tolist()
        == TrainPlan(lengths, **arguments, by_length=False).rows(3).tolist()
    )


@few_examples
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9))
def test_batches_are_divided_so_that_padding_and_passes_cost_least(lengths: list[int]) -> None:
    def cost(pieces: list[list[int]]) -> int:
        return sum(piece[0] * len(piece) + PASS_COST for piece in pieces)

    plan = TrainPlan(np.array(lengths), 9, 9, seed=0, divides=True)
    pieces = [[lengths[row] for row in piece] for piece in micro_batches_of(plan, 0)[0]]
    ordered = sorted(lengths, reverse=True)
    assert [length for piece in pieces for length in piece] == ordered
    every = []
    for cuts in product([False, True], repeat=len(ordered) - 1):
        divided = [[ordered[0]]]
        for length, cut in zip(ordered[1:], cuts, strict=True):
            divided += [[length]] if cut else []
            divided[-1] += [] if cut else [length]
        every.append(cost(divided))
    assert cost(pieces) == min(every)


@few_examples
@given(st.integers(0, 120), st.integers(1, 40), st.integers(1, 7), st.integers(0, 3))
def test_blocks_by_length_cover_each_row_once_for_any_number_of_processes(
    rows: int, block: int, processes: int, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, rows)
    single = blocks_by_length(lengths, block)
    distributed = [
        p for rank in range(processes) for p in blocks_by_length(lengths, block, rank, processes)
    ]
    assert sorted(i for micro_batch in single for i in micro_batch.indices) == list(range(rows))
    assert sorted(distributed, key=lambda micro_batch: micro_batch.slot) == single
    assert all(len(micro_batch.indices) == block for micro_batch in single[:-1])
    longest_first = [int(lengths[i]) for micro_batch in single for i in micro_batch.indices]
    assert longest_first == sorted(longest_first, reverse=True)


@few_examples
@given(st.lists(st.integers(0, 60), max_size=90), st.integers(1, 9))
def test_blocks_of_little_padding_cover_each_row_once(lengths: list[int], block: int) -> None:
    used = np.array(lengths, dtype=np.int64)
    blocks = blocks_of_little_padding(used, block)
    assert sorted(i for each in blocks for i in each.indices) == list(range(len(used)))
    for each in blocks:
        taken = used[list(each.indices)]
        assert len(taken) <= block
        assert taken.min() >= (1 - PADDING) * taken.max()


# ---- balanced sampling

IMBALANCED = np.random.default_rng(0).permutation([0] * 50 + [1] * 9 + [2])


def balanced(**arguments: int) -> TrainPlan:
    lengths = np.random.default_rng(1).integers(1, 100, len(IMBALANCED))
    defaults: dict[str, int] = {"batch_size": 8, "micro_batch_size": 3, "seed": 0}
    return TrainPlan(lengths, **(defaults | arguments), classes=IMBALANCED)  # type: ignore[arg-type]


def drawn(plan: TrainPlan, epoch: int) -> list[tuple[int, int]]:
    """Return (row, how often it was drawn before) for all rows of an epoch, over all processes."""
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    micro_batches = [
        micro_batch
        for step in steps
        for process in range(plan.processes)
        for micro_batch in plan.micro_batches(step, process)
    ]
    drawn_rows = [zip(p.indices, p.turns, strict=True) for p in micro_batches if not p.filler]
    return [pair for pairs in drawn_rows for pair in pairs]


def test_balanced_plan_draws_equally_many_rows_of_each_class() -> None:
    plan = balanced()
    for epoch in range(4):
        counts = np.bincount(IMBALANCED[[row for row, _ in drawn(plan, epoch)]])
        assert counts.tolist() == [20, 20, 20]
    seen = [pair for epoch in range(7) for pair in drawn(plan, epoch)]
    assert len(set(seen)) == len(seen)  # repeated rows are augmented differently
    times_drawn = np.bincount([row for row, _ in seen])
    for label in range(3):  # and no row of the large class is missed over the epochs
        assert np.ptp(times_drawn[label == IMBALANCED]) <= 1


def test_balanced_plan_order_depends_on_the_position_only() -> None:
    first = [balanced().rows(step).tolist() for step in range(24)]
    assert first == [balanced().rows(step).tolist() for step in reversed(range(24))][::-1]
    assert first != [balanced(seed=1).rows(step).tolist() for step in range(24)]
    for processes in (2, 9):
        shared = balanced(processes=processes)
        for epoch in range(3):
            assert sorted(drawn(shared, epoch)) == sorted(drawn(balanced(), epoch))


def test_fewest_rows_is_the_size_of_the_smallest_micro_batch() -> None:
    for count, size, micro, processes in (
        (20, 19, 19, 1),
        (20, 10, 4, 1),
        (21, 8, 3, 2),
        (7, 7, 1, 1),
    ):
        plan = TrainPlan(np.ones(count, int), size, micro, seed=0, processes=processes)
        for steps in (1, plan.steps_per_epoch, 3 * plan.steps_per_epoch):
            batches = [
                len(micro_batch.indices)
                for step in range(steps)
                for process in range(processes)
                for micro_batch in plan.micro_batches(step, process)
            ]
            assert plan.fewest_rows(steps) == min(batches)
