"""The plan of batches: each row once an epoch, whatever the number of processes and the micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.batching.plan import TrainPlan, blocks_by_length

SHAPES = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 150),
        "batch_size": st.integers(1, 40),
        "micro_batch_size": st.integers(1, 50),
        "processes": st.integers(1, 9),
        "by_length": st.booleans(),
        "seed": st.integers(0, 3),
    }
)
few = settings(max_examples=60, deadline=None)


def plan_of(rows: int, seed: int, **facts: int) -> TrainPlan:
    lengths = np.random.default_rng(seed).integers(1, 100, rows)
    return TrainPlan(lengths, seed=seed, **facts)  # type: ignore[arg-type]


def micro_batches_of(plan: TrainPlan, step: int) -> list[list[tuple[int, ...]]]:
    """By process, without fillers."""
    own = [plan.micro_batches(step, process) for process in range(plan.processes)]
    return [
        [micro_batch.indices for micro_batch in micro_batches if not micro_batch.filler]
        for micro_batches in own
    ]


@few
@given(SHAPES, st.integers(0, 2))
def test_epoch_visits_each_row_once(shape: dict[str, int], epoch: int) -> None:
    plan = plan_of(**shape)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    seen = [
        i
        for step in steps
        for own in micro_batches_of(plan, step)
        for micro_batch in own
        for i in micro_batch
    ]
    assert sorted(seen) == list(range(shape["rows"]))


@few
@given(SHAPES, st.integers(0, 40))
def test_rows_of_a_step_do_not_depend_on_how_it_is_cut(shape: dict[str, int], step: int) -> None:
    plan = plan_of(**shape)
    whole = plan_of(**{**shape, "processes": 1, "micro_batch_size": shape["batch_size"]})
    cut = [i for own in micro_batches_of(plan, step) for micro_batch in own for i in micro_batch]
    assert sorted(cut) == sorted(whole.rows(step).tolist())
    assert len(cut) == plan.size(step) == len(plan.rows(step))


@few
@given(SHAPES, st.integers(0, 40))
def test_each_process_has_work_that_fits(shape: dict[str, int], step: int) -> None:
    plan = plan_of(**shape)
    own = [plan.micro_batches(step, process) for process in range(plan.processes)]
    assert all(own)
    assert all(
        0 < len(p.indices) <= plan.micro_batch_size for micro_batches in own for p in micro_batches
    )
    assert all(micro_batch.step == step for micro_batches in own for micro_batch in micro_batches)
    assert (
        len({len(micro_batches) for micro_batches in own}) == 1
    )  # sharded weights are fetched by all at once
    # Collating draws its random numbers by slot, so no two micro_batches may have the same.
    slots = [micro_batch.slot for micro_batches in own for micro_batch in micro_batches]
    assert len(set(slots)) == len(slots)


@few
@given(SHAPES)
def test_only_a_process_with_too_few_rows_gets_a_filler(shape: dict[str, int]) -> None:
    plan = plan_of(**shape)
    for step in range(plan.steps_per_epoch):
        for process in range(plan.processes):
            micro_batches = plan.micro_batches(step, process)
            if any(micro_batch.filler for micro_batch in micro_batches):
                assert [micro_batch.filler for micro_batch in micro_batches[:-1]] == [False] * (
                    len(micro_batches) - 1
                )
                assert plan.size(step) < plan.processes * len(micro_batches)


@few
@given(SHAPES)
def test_all_batches_but_the_last_of_an_epoch_are_whole(shape: dict[str, int]) -> None:
    plan = plan_of(**shape)
    sizes = [plan.size(step) for step in range(plan.steps_per_epoch)]
    assert all(size == min(plan.batch_size, shape["rows"]) for size in sizes[:-1])


def test_order_is_a_function_of_seed_and_epoch() -> None:
    facts = {"batch_size": 8, "micro_batch_size": 8}
    first = [plan_of(60, 1, **facts).rows(step).tolist() for step in range(16)]
    assert first == [plan_of(60, 1, **facts).rows(step).tolist() for step in range(16)]
    assert first[:8] != first[8:]
    lengths = np.random.default_rng(1).integers(1, 100, 60)
    other = TrainPlan(lengths, seed=2, **facts)
    assert first != [other.rows(step).tolist() for step in range(16)]


def test_batching_by_length_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    facts = {"batch_size": 32, "micro_batch_size": 32, "seed": 0}
    steps = TrainPlan(lengths, **facts).steps_per_epoch

    def padded(some: Sequence[int]) -> int:
        return max(some) * len(some)

    by_length = TrainPlan(lengths, **facts).useful_share(steps, padded)
    at_random = TrainPlan(lengths, **facts, by_length=False).useful_share(steps, padded)
    assert by_length > 0.95
    assert at_random < 0.6


@few
@given(st.integers(0, 120), st.integers(1, 40), st.integers(1, 7), st.integers(0, 3))
def test_blocks_cover_each_row_once_and_do_not_depend_on_processes(
    rows: int, block: int, processes: int, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, rows)
    alone = blocks_by_length(lengths, block)
    dealt = [
        p for rank in range(processes) for p in blocks_by_length(lengths, block, rank, processes)
    ]
    assert sorted(i for micro_batch in alone for i in micro_batch.indices) == list(range(rows))
    assert sorted(dealt, key=lambda micro_batch: micro_batch.slot) == alone
    assert all(len(micro_batch.indices) == block for micro_batch in alone[:-1])
    longest_first = [int(lengths[i]) for micro_batch in alone for i in micro_batch.indices]
    assert longest_first == sorted(longest_first, reverse=True)


# ---- balanced sampling

UNEQUAL = np.random.default_rng(0).permutation([0] * 50 + [1] * 9 + [2])


def balanced(**facts: int) -> TrainPlan:
    lengths = np.random.default_rng(1).integers(1, 100, len(UNEQUAL))
    usual: dict[str, int] = {"batch_size": 8, "micro_batch_size": 3, "seed": 0}
    return TrainPlan(lengths, **(usual | facts), classes=UNEQUAL)  # type: ignore[arg-type]


def drawn(plan: TrainPlan, epoch: int) -> list[tuple[int, int]]:
    """(row, how often it was drawn before) of all that processes hold in an epoch."""
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    micro_batches = [
        p for step in steps for own in range(plan.processes) for p in plan.micro_batches(step, own)
    ]
    held = [zip(p.indices, p.turns, strict=True) for p in micro_batches if not p.filler]
    return [pair for pairs in held for pair in pairs]


def test_balanced_epoch_draws_as_many_rows_of_each_class() -> None:
    plan = balanced()
    for epoch in range(4):
        counts = np.bincount(UNEQUAL[[row for row, _ in drawn(plan, epoch)]])
        assert counts.tolist() == [20, 20, 20]
    seen = [pair for epoch in range(7) for pair in drawn(plan, epoch)]
    assert len(set(seen)) == len(seen)  # a row that is drawn again is augmented in another way
    often = np.bincount([row for row, _ in seen])
    for own in range(3):  # and no row of the large class is left out over the epochs
        assert np.ptp(often[own == UNEQUAL]) <= 1


def test_balanced_order_is_a_function_of_position_alone() -> None:
    first = [balanced().rows(step).tolist() for step in range(24)]
    assert first == [balanced().rows(step).tolist() for step in reversed(range(24))][::-1]
    assert first != [balanced(seed=1).rows(step).tolist() for step in range(24)]
    for processes in (2, 9):
        shared = balanced(processes=processes)
        for epoch in range(3):
            assert sorted(drawn(shared, epoch)) == sorted(drawn(balanced(), epoch))
