"""One search from its plan to its results, gone on with where an earlier start stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from finetune.config.schema import TaskConfig
from finetune.distributed.launch import this_process
from finetune.errors import CheckpointError, ConfigError, FinetuneError, format_count
from finetune.io.run_lock import RunLock
from finetune.reporting.console import Console, format_duration
from finetune.search_space.search_plan import SearchPlan
from finetune.searches.advisor import advise
from finetune.task import Task
from finetune.tuning.cluster_trials import run_on_cluster
from finetune.tuning.search_folder import SearchFolder, default_search_folder
from finetune.tuning.search_results import (
    SearchResults,
    estimate_optimism,
    read_results,
    show_search,
    write_results,
)
from finetune.tuning.stored_trials import begin_in_store, run_in_store, send_results
from finetune.tuning.study import check_optuna
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import SECONDS_BETWEEN_LOOKS, TrialWorker
from finetune.tuning.workers import run_workers


def run_search(
    plan: SearchPlan, make_task: Callable[[TaskConfig], Task], data: Any = None
) -> SearchResults:
    """Run the trials that are missing, measure the best one on test, and write the results.

    Without a space, the ladder of methods is tried.
    Raises FinetuneError for every fault that the user can fix, and Interrupted.
    """
    state = this_process()
    console = Console(enabled=state.is_main_process)
    given = plan.settings.dir
    folder = SearchFolder(default_search_folder(plan) if given is None else Path(given))
    training = TrialTraining(plan, folder, make_task, data)
    if not plan.space:
        return advise(training)
    check_optuna()
    if state.is_main_process:
        folder.begin(plan)
    state.wait_for_everyone()
    folder.check_same(plan)
    store = plan.settings.storage
    if store is not None:
        begin_in_store(training, store)
    console.heading(f"search with {_describe(plan)}, output in {store or folder.path}")
    console.facts({key: str(values) for key, values in plan.space.items()})
    if store is not None:
        run_in_store(training, store, console)
        results = _conclude(TrialWorker(training, console))
        send_results(folder, store)
        return results
    worker = TrialWorker(training, console)
    if plan.settings.on is not None:
        run_on_cluster(training, console)
        return _conclude(worker)
    if (plan.settings.workers or 1) > 1:
        if state.num_processes > 1:
            raise ConfigError(
                "search.workers: the launcher has started several processes for each trial; leave "
                "search.workers out, or start the search without a launcher"
            )
        run_workers(training)
    worker.run_all()  # with workers: what they left
    return _conclude(worker)


def _describe(plan: SearchPlan) -> str:
    count = "" if plan.trials == float("inf") else f"{format_count(int(plan.trials), 'trial')}, "
    limit = plan.settings.time
    time = "" if limit is None else f", at most {format_duration(limit)}"
    return f"{count}sampler={plan.sampler}, pruner={plan.settings.pruner}{time}"


def _conclude(worker: TrialWorker) -> SearchResults:
    """Measure the best trial on test; print and write the results."""
    worker.restore_measured()
    folder, study = worker.folder, worker.study
    results = read_results(folder, worker.plan, study.records(), study.importances())
    # The first process decides for all: another worker may complete a better trial meanwhile.
    (best,) = broadcast_object_list([None if results is None else results.best])
    if results is None or best is None:
        raise FinetuneError(
            f"{folder.path}: no trial is complete; run the same command again"
            + ("" if worker.plan.settings.time is None else ", with more time")
        )
    ended = sum(record.state != "running" for record in results.records)
    if ended < (total := worker.plan.trials) < math.inf:
        worker.console.print(f"{ended} of {total} trials ended in time; the same command goes on")
    results = replace(results, best=best)
    lock = _wait_for(folder.claim(best.number)) if this_process().is_main_process else None
    this_process().wait_for_everyone()
    worker.training.finish(best.number, best.values)
    if lock is not None:
        results = replace(results, optimism=estimate_optimism(results))
        show_search(results, worker.console)
        write_results(results)
        lock.release()
    return results


def _wait_for(lock: RunLock) -> RunLock:
    """Take a lock, after another process that has it."""
    while True:
        try:
            return lock.acquire()
        except CheckpointError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
