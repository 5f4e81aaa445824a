"""Processes that share the trials of a search: of this machine, or of the machines of a cluster."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from finetune import registry
from finetune.batching.shared_rows import SharedRows
from finetune.cluster.ray_cluster import connected
from finetune.cluster.repeated_tasks import RepeatedTasks
from finetune.distributed.signals import Interrupted, Signals, stop_with_parent
from finetune.errors import CheckpointError, ConfigError, FinetuneError
from finetune.reporting.console import Console
from finetune.search_space.search_plan import SearchPlan
from finetune.tuning.search_folder import RECORD, SearchFolder
from finetune.tuning.study import SearchStudy, best_of, check_optuna
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import SECONDS_BETWEEN_LOOKS, TrialRunner


def run_workers(training: TrialTraining) -> None:
    """Run trials in `search.workers` processes until none is left.

    Raises FinetuneError with the message of a worker that failed, and Interrupted after SIGTERM or
    SIGINT, once all have stopped.
    """
    count = training.plan.settings.workers or 1
    spawn = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    faults = spawn.SimpleQueue()
    devices = share_devices(count)
    threads = max(1, torch.get_num_threads() // count)
    workers = [
        spawn.Process(target=_work, args=(training, devices[index], threads, faults))
        for index in range(count)
    ]
    with Signals() as signals:
        for worker in workers:
            worker.start()
        stopped = False
        while any(worker.is_alive() for worker in workers):
            workers[0].join(SECONDS_BETWEEN_LOOKS)
            for worker in workers:
                worker.join(0)
            if signals.received and not stopped:
                stopped = True
                for worker in workers:
                    worker.terminate()
    if signals.received:
        raise Interrupted(None, signals.received)
    if not faults.empty():
        raise FinetuneError(faults.get())
    if any(worker.exitcode for worker in workers):
        codes = ", ".join(str(worker.exitcode) for worker in workers)
        raise RuntimeError(f"a worker of the search failed, see above (exit codes {codes})")


def share_devices(count: int) -> list[str | None]:
    """Return the CUDA_VISIBLE_DEVICES of each of `count` processes; None without GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else list(map(str, range(torch.cuda.device_count())))
    if not names or not torch.cuda.is_available():
        return [None] * count
    return [",".join(names[index::count] or [names[index % len(names)]]) for index in range(count)]


def _work(training: TrialTraining, devices: str | None, threads: int, faults: Any) -> None:
    """Run trials in this process; put the message of an error that has a remedy into `faults`."""
    stop_with_parent()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    torch.set_num_threads(threads)
    check_optuna()
    try:
        TrialRunner(training, Console()).run_all()
    except Interrupted as error:
        sys.exit(error.exit_code)
    except FinetuneError as error:
        faults.put(str(error))


def run_on_cluster(training: TrialTraining, console: Console) -> None:
    """Run trials as tasks of a Ray cluster until none is left, and finish the best one.

    Each task takes a trial that a lost machine left, or a new one. Raises FinetuneError, and
    Interrupted.
    """
    plan, folder = training.plan, training.folder
    if training.data is not None or training.make_task is not registry.make_task:
        raise ConfigError(
            "search.on: machines of a cluster get data and tasks by name; write the rows to a file "
            "that they share, and name it and the task"
        )
    study = SearchStudy(folder.path, plan)
    # By the clock of the wall, which machines share.
    end = math.inf if plan.settings.time is None else time.time() + plan.settings.time
    with connected(plan.settings, console) as cluster:
        tasks = RepeatedTasks(cluster, folder.path / RECORD, console)
        tasks.run(_run_next_trial, (plan, folder, end), lambda: _count_left(study, end))
        tasks.run(_finish_best, (plan, folder), lambda: _count_unfinished(study, training))


def _count_left(study: SearchStudy, end: float) -> float:
    """Return the number of trials that have not ended; 0 once the time is up."""
    ended = sum(record.state != "running" for record in study.records())
    return study.plan.trials - ended if time.time() < end else 0


def _count_unfinished(study: SearchStudy, training: TrialTraining) -> int:
    best = best_of(study.records())
    return int(best is not None and not training.is_finished(best.number))


def _run_next_trial(plan: SearchPlan, folder: SearchFolder, end: float) -> str:
    """Run one trial in a process of a cluster; return what it printed."""
    if plan.settings.time is not None:
        left = {"time": max(end - time.time(), 0.0)}
        plan = replace(plan, settings=plan.settings.model_copy(update=left))
    with StringIO() as text:
        if not _runner(plan, folder, text).run_next():
            time.sleep(SECONDS_BETWEEN_LOOKS)  # another search in this folder has the last trials
        return text.getvalue().rstrip()


def _finish_best(plan: SearchPlan, folder: SearchFolder) -> str:
    """Finish the best trial in a process of a cluster."""
    with StringIO() as text:
        runner = _runner(plan, folder, text)
        best = best_of(runner.study.records())
        assert best is not None, "counted before"
        try:
            lock = folder.claim(best.number).acquire()
        except CheckpointError:  # another search in this folder finishes it
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return ""
        runner.training.finish(best.number, best.values)
        lock.release()
        return text.getvalue().rstrip()


def _runner(plan: SearchPlan, folder: SearchFolder, text: StringIO) -> TrialRunner:
    check_optuna()
    shared = _shared_rows(folder.path.absolute())
    training = TrialTraining(plan, folder, registry.make_task, None, shared)
    return TrialRunner(training, Console(file=text))


@cache
def _shared_rows(folder: Path) -> SharedRows:
    """Return the rows that the trials of a search share which run in this process of a cluster."""
    return SharedRows()
