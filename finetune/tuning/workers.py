"""Processes of this machine that share the trials of a search."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import torch

from finetune.distributed.signals import Interrupted, Signals, stop_with_parent
from finetune.errors import FinetuneError
from finetune.reporting.console import Console
from finetune.tuning.study import check_optuna
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import SECONDS_BETWEEN_LOOKS, TrialWorker


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
        TrialWorker(training, Console()).run_all()
    except Interrupted as error:
        sys.exit(error.exit_code)
    except FinetuneError as error:
        faults.put(str(error))
