"""The trials of a search: sampled, pruned, and the same when the search is stopped anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from itertools import takewhile
from operator import not_
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import CheckpointError
from finetune.search_space.search_plan import SearchPlan
from finetune.tuning.journal_file import JOURNAL
from finetune.tuning.study import SearchStudy, TrialLength, best_of

Planner = Callable[..., SearchPlan]
MIXED = (
    "method=choice(frozen,lora,full)",
    "rank=choice(4,8,16)",
    "lr=log(1e-5,1e-3)",
    "weight_decay=range(0,0.5,0.1)",
)
NUMBERS = ("lr=log(1e-5,1e-3)", "weight_decay=range(0,0.5,0.1)")
LISTS = ("method=choice(frozen,lora,full)", "rank=choice(4,8,16)", "batch_size=[8,16]")


def score(values: dict[str, Any], evaluation: int) -> float:
    distance = abs(math.log10(values.get("lr", 1e-4)) + 4) + abs(
        values.get("weight_decay", 0) - 0.2
    )
    return (values.get("rank", 2) / 16 - distance) * (1 - 0.5**evaluation)


def walk(folder: Path, plan: SearchPlan, stops: Collection[int] = ()) -> list[Any]:
    """Run all trials; after each report whose number is in `stops`, the process starts anew."""
    folder.mkdir()
    study, reports = SearchStudy(folder, plan), 0
    while True:
        records = study.records()
        started = [record for record in records if record.state == "running"]
        if not started and len(records) >= plan.trials:
            return [(record.values, record.state, record.score) for record in records]
        record, evaluation = started[0] if started else study.ask(), 0
        while evaluation < 4:
            evaluation += 1
            now = score(record.values, evaluation)
            is_pruned = study.report(record.number, evaluation, now, TrialLength(4))
            reports += 1
            if reports in stops:  # killed before the decision was carried out
                study, evaluation = SearchStudy(folder, plan), 0
            elif is_pruned:
                study.prune(record.number, 1.0)
                break
        else:
            study.complete(record.number, 1.0, [score(record.values, 4)])


@pytest.mark.parametrize(
    ("sampler", "pruner", "words"),
    [
        ("grid", "asha", LISTS),
        ("random", "median", MIXED),
        ("tpe", "asha", MIXED),
        ("tpe", "hyperband", MIXED),
        ("gp", "none", MIXED),
        ("cmaes", "asha", NUMBERS),
    ],
)
def test_a_stopped_search_has_the_same_trials(
    plan: Planner, tmp_path: Path, sampler: str, pruner: str, words: tuple[str, ...]
) -> None:
    search = plan(*words, f"sampler={sampler}", f"pruner={pruner}", "trials=12")
    once = walk(tmp_path / "once", search)
    often = walk(tmp_path / "often", search, stops=range(2, 40, 5))
    assert often == once
    states = {state for _, state, _ in once}
    assert states == ({"complete"} if pruner == "none" else {"complete", "pruned"})


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_trial_is_not_pruned_in_its_grace(plan: Planner, tmp_path: Path, pruner: str) -> None:
    study = SearchStudy(tmp_path, plan("lr=log(1e-5,1e-3)", f"pruner={pruner}"))
    for _ in range(8):
        study.ask()
    lasted = []
    for number in range(8):  # each is worse than the one before
        reports = (
            study.report(number, evaluation, -number * evaluation, TrialLength(18, grace=2))
            for evaluation in range(1, 18)
        )
        kept = sum(1 for _ in takewhile(not_, reports))
        lasted.append(kept + 1 if kept < 17 else None)
        (study.prune if lasted[-1] else partial(study.complete, scores=[-number]))(number, 1.0)
    assert lasted[0] is None
    assert min(filter(None, lasted)) == 2


def test_a_grid_tries_each_combination_once(plan: Planner, tmp_path: Path) -> None:
    search = plan(*LISTS, "pruner=none")
    tried = [tuple(values.items()) for values, _, _ in walk(tmp_path / "grid", search)]
    assert len(tried) == len(set(tried)) == search.trials == 10
    assert sum("rank" in dict(values) for values in tried) == 6


def test_another_seed_gives_other_trials_and_values_can_be_typed(
    plan: Planner, tmp_path: Path
) -> None:
    rates = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        study = SearchStudy(tmp_path / str(seed), plan(*NUMBERS, f"search.seed={seed}"))
        rates.append(study.ask().values)
    assert rates[0] != rates[1]
    assert all(float(f"{values['lr']:.4g}") == values["lr"] for values in rates)
    assert all(1e-5 <= values["lr"] <= 1e-3 for values in rates)


def test_a_journal_with_an_incomplete_last_line_is_read(plan: Planner, tmp_path: Path) -> None:
    search = plan(*NUMBERS)
    study = SearchStudy(tmp_path, search)
    study.complete(study.ask().number, 1.0, [0.5])
    second = study.ask()
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code":4,"work')
    study = SearchStudy(tmp_path, search)
    assert [record.state for record in study.records()] == ["complete", "running"]
    assert study.records()[1].values == second.values
    study.fail(1, 2.0, "no memory")
    assert (study.records()[1].reason, study.records()[1].seconds) == ("no memory", 2.0)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda lines: [b"notes on the search", *lines], 1),
        (lambda lines: [b'{"a": 1}', b"[2]"], 1),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[1][:20], *lines[2:]], 2),
        (lambda lines: [lines[0], b"\xff\0" * 9], 2),
        (lambda lines: [*lines, b""], 4),
    ],
)
def test_a_damaged_journal_is_named_with_its_line(
    plan: Planner, tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    SearchStudy(tmp_path, plan(*NUMBERS)).ask()
    SearchStudy(tmp_path, plan(*NUMBERS)).ask()
    path = tmp_path / JOURNAL
    path.write_bytes(b"".join(each + b"\n" for each in spoil(path.read_bytes().splitlines())))
    with pytest.raises(CheckpointError, match=rf"journal\.jsonl: line {line} is damaged"):
        SearchStudy(tmp_path, plan(*NUMBERS))


def test_a_journal_that_cannot_be_written_is_named(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(CheckpointError, match=r"journal\.jsonl: cannot be written"):
        SearchStudy(tmp_path, plan(*NUMBERS))


def test_several_seeds_are_ranked_by_their_mean(plan: Planner, tmp_path: Path) -> None:
    study = SearchStudy(tmp_path, plan(*NUMBERS))
    for scores in ([0.9, 0.1], [0.6, 0.6], [0.6, 0.6]):
        study.complete(study.ask().number, 1.0, scores)
    best = best_of(study.records())
    assert best is not None
    assert (best.number, best.score, best.scores) == (1, 0.6, (0.6, 0.6))
