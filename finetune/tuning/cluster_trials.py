"""Trials as tasks of a Ray cluster whose machines share the folder of the search."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path

from finetune import registry
from finetune.batching.shared_rows import SharedRows
from finetune.cluster.ray_cluster import connected
from finetune.cluster.repeated_tasks import RepeatedTasks
from finetune.errors import CheckpointError, ConfigError
from finetune.reporting.console import Console
from finetune.search_space.search_plan import SearchPlan
from finetune.tuning.search_folder import RECORD, SearchFolder
from finetune.tuning.study import SearchStudy, TrialRecord, best_of, check_optuna
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import SECONDS_BETWEEN_LOOKS, TrialWorker


def run_on_cluster(training: TrialTraining, console: Console) -> None:
    """Run trials as tasks of a Ray cluster until none is left, and finish the best one.

    Each task takes a trial that a lost machine left, or a new one. Raises FinetuneError, and
    Interrupted.
    """
    plan, folder = training.plan, training.folder
    check_is_named(training)
    study = SearchStudy(folder.path, plan)
    end = end_of(plan)
    with connected(plan.settings, console) as cluster:
        tasks = RepeatedTasks(cluster, folder.path / RECORD, console)
        tasks.run(
            _run_next_trial, (plan, folder, end), lambda: count_left(study.records(), plan, end)
        )
        tasks.run(_finish_best, (plan, folder), lambda: _count_unfinished(study, training))


def check_is_named(training: TrialTraining) -> None:
    """Raise ConfigError if trials are made of what only this process has."""
    if training.data is not None or training.make_task is not registry.make_task:
        raise ConfigError(
            "search.on: machines of a cluster get data and tasks by name; write the rows to a file "
            "that they share, and name it and the task"
        )


def end_of(plan: SearchPlan) -> float:
    """Return when the time is up, by the wall clock, which machines share."""
    return math.inf if plan.settings.time is None else time.time() + plan.settings.time


def until(plan: SearchPlan, end: float) -> SearchPlan:
    """Return the plan with the time that is left."""
    if plan.settings.time is None:
        return plan
    left = {"time": max(end - time.time(), 0.0)}
    return replace(plan, settings=plan.settings.model_copy(update=left))


def count_left(records: Sequence[TrialRecord], plan: SearchPlan, end: float) -> float:
    """Return the number of trials that have not ended; 0 once the time is up."""
    ended = sum(record.state != "running" for record in records)
    return plan.trials - ended if time.time() < end else 0


def _count_unfinished(study: SearchStudy, training: TrialTraining) -> int:
    best = best_of(study.records())
    return int(best is not None and not training.is_finished(best.number))


def _run_next_trial(plan: SearchPlan, folder: SearchFolder, end: float) -> str:
    """Run one trial in a process of a cluster; return what it printed."""
    with StringIO() as text:
        if not _worker(until(plan, end), folder, text).run_next():
            time.sleep(SECONDS_BETWEEN_LOOKS)  # another search in this folder has the last trials
        return text.getvalue().rstrip()


def _finish_best(plan: SearchPlan, folder: SearchFolder) -> str:
    """Finish the best trial in a process of a cluster."""
    with StringIO() as text:
        worker = _worker(plan, folder, text)
        best = best_of(worker.study.records())
        assert best is not None, "counted before"
        try:
            lock = folder.claim(best.number).acquire()
        except CheckpointError:  # another search in this folder finishes it
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return ""
        worker.training.finish(best.number, best.values)
        lock.release()
        return text.getvalue().rstrip()


def _worker(plan: SearchPlan, folder: SearchFolder, text: StringIO) -> TrialWorker:
    check_optuna()
    return TrialWorker(training_here(plan, folder), Console(file=text))


def training_here(plan: SearchPlan, folder: SearchFolder) -> TrialTraining:
    """Return the training of trials in this process of a cluster."""
    shared = _shared_rows(folder.path.absolute())
    return TrialTraining(plan, folder, registry.make_task, None, shared)


@cache
def _shared_rows(folder: Path) -> SharedRows:
    """Return the rows that the trials of a search share which run in this process of a cluster."""
    return SharedRows()
