"""Running of trials, one after another, until the search has all of them or its time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from accelerate.utils import broadcast_object_list

from finetune.distributed.launch import this_process
from finetune.distributed.signals import Interrupted
from finetune.errors import CheckpointError, FinetuneError
from finetune.io.run_folder import RunFolder
from finetune.io.run_lock import RunLock
from finetune.optim.schedules import warmup_steps
from finetune.reporting.console import Console
from finetune.training.state import Live, TrialHooks
from finetune.tuning.measured import RankedBy, ranked_by, read_measured, save_measured
from finetune.tuning.search_folder import format_values
from finetune.tuning.study import REDUCTION, SearchStudy, TrialLength, TrialRecord, best_of
from finetune.tuning.trial_training import TrialTraining

SECONDS_BETWEEN_LOOKS = 0.5


class _Pruned(Exception):  # noqa: N818 - a decision, not an error
    """End of a trial that the pruner gave up, in every process."""


class _OutOfTime(Exception):  # noqa: N818
    """End of a trial that goes on when the search is started again, in every process."""


def _length_of(live: Live, grace: int | None) -> TrialLength:
    """Return the number of evaluations of a trial, and of those before it may be pruned.

    Without a given grace, two rungs of ASHA are before the end, and none in the warm-up.
    """
    every = live.config.train.evaluate_every
    steps = every if isinstance(every, int) else live.plan.steps_per_epoch
    if grace is None:
        warmup = warmup_steps(live.config.optim, live.total_steps)
        grace = math.ceil(max(live.total_steps / REDUCTION**2, warmup, 1) / steps)
    return TrialLength(math.ceil(live.total_steps / steps), grace)


class TrialStudy(Protocol):
    """The part of a study in which a process records the trials that it runs."""

    def records(self) -> list[TrialRecord]: ...

    def report(self, number: int, evaluation: int, score: float, length: TrialLength) -> bool: ...

    def complete(self, number: int, seconds: float, scores: list[float]) -> None: ...

    def prune(self, number: int, seconds: float) -> None: ...

    def fail(self, number: int, seconds: float, reason: str) -> None: ...


class TrialRunner:
    """Runner of the trials of a search, whose study may be in another process.

    `keep` is called with a trial's number after each checkpoint, and before its end is recorded.
    """

    def __init__(
        self,
        training: TrialTraining,
        console: Console,
        study: TrialStudy,
        keep: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.training = training
        self.plan = training.plan
        self.folder = training.folder
        self.console = console
        self.study = study
        self._keep = keep
        self._is_late = False
        self._metric: RankedBy | None = None
        limit = self.plan.settings.time
        self._deadline = math.inf if limit is None else time.monotonic() + limit

    def run(self, record: TrialRecord) -> bool:
        """Run a trial; False if the time was up before its end."""
        try:
            self._run_trial(record)
        except _OutOfTime:
            self.console.print("out of time; the same command goes on with this trial")
            return False
        return True

    def _run_trial(self, record: TrialRecord) -> None:
        """Train a trial with each of its seeds, and record how it ended."""
        number, total = record.number, self.plan.trials
        of = f" ({number + 1} of {total})" if math.isfinite(total) else ""
        self.console.print(f"trial {number}{of}: {format_values(record.values)}")
        started = time.monotonic()
        try:
            scores = [self._score(record, seed) for seed in range(self.plan.settings.seeds)]
        except _Pruned:
            self._end(number, started, self.study.prune, "pruned: ")
        except Interrupted:
            raise
        except (FinetuneError, torch.OutOfMemoryError) as error:
            if not self._is_of_this_trial(error):
                raise
            reason = str(error).partition("\n")[0]
            self._end(number, started, partial(self.study.fail, reason=reason), "failed: " + reason)
        else:
            self._end(number, started, partial(self.study.complete, scores=scores))

    def _score(self, record: TrialRecord, seed: int) -> float:
        """Train a trial with one seed; return its score."""
        number, measured = record.number, self.folder.measured(record.number, seed)
        hooks = TrialHooks(
            # A trial that was worth its first seed is trained with all of them.
            lambda *evaluation: self._judge(number, *evaluation, may_prune=seed == 0),
            lambda: self._saved(number),
            partial(save_measured, measured),
        )
        self.training.train(number, record.values, hooks, seed=seed)
        score, self._metric = read_measured(measured)
        if math.isnan(score):
            raise FinetuneError(f"{self._metric.name} is undefined on the validation split")
        return score

    def _judge(
        self,
        number: int,
        live: Live,
        folder: RunFolder,
        step: int,
        metrics: Mapping[str, float],
        *,
        may_prune: bool,
    ) -> None:
        """End a trial that the pruner gives up, in all processes alike; look at the time."""
        decision = [False, False]
        # Nothing is saved by ending a trial at its last step.
        if live.accelerator.is_main_process and step < live.total_steps:
            lines = folder.history()
            done = sum(line["split"] == "validation" and line["step"] > 0 for line in lines)
            self._metric = ranked_by(live)
            score = self._metric.score(metrics)
            length = _length_of(live, self.plan.settings.grace)
            decision[0] = may_prune and self.study.report(number, done, score, length)
            decision[1] = time.monotonic() >= self._deadline
        is_pruned, self._is_late = broadcast_object_list(decision)
        if is_pruned:
            raise _Pruned

    def _saved(self, number: int) -> None:
        """Keep a checkpoint; then end a trial for lack of time, in all processes alike."""
        self._keep(number)
        if self._is_late:
            raise _OutOfTime

    def _end(
        self, number: int, started: float, tell: Callable[[int, float], None], words: str = ""
    ) -> None:
        """Record how a trial ended and its seconds in this start, and print it."""
        if not this_process().is_main_process:
            return
        self._keep(number)
        tell(number, round(time.monotonic() - started, 3))
        records = self.study.records()
        record = records[number]
        if record.score is not None and self._metric is not None:
            words += self._metric.describe(record.score)
            words += ", the best so far" if record == best_of(records) and number else ""
        self.console.print(f"trial {number}: {words}")

    def _is_of_this_trial(self, error: Exception) -> bool:
        """False for errors that other trials would have, too."""
        if isinstance(error, torch.OutOfMemoryError) or type(error) is FinetuneError:
            return True
        states = {record.state for record in self.study.records()}
        return not isinstance(error, CheckpointError) and bool(states & {"complete", "pruned"})


class TrialWorker(TrialRunner):
    """One worker of a search, which chooses its trials. Several may share the folder."""

    def __init__(self, training: TrialTraining, console: Console) -> None:
        study = SearchStudy(training.folder.path, training.plan)
        super().__init__(training, console, study)
        self.study: SearchStudy = study

    def run_all(self) -> None:
        """Run trials while there are any to begin or to go on with.

        Raises FinetuneError for what would fail in every trial, and Interrupted.
        """
        while self.run_next(waits=True):
            pass

    def run_next(self, *, waits: bool = False) -> bool:
        """Run one trial; False if there is none, or if the time is up.

        With `waits`, there is one as long as a trial that another process runs may be left to this
        one.
        """
        claimed = self._claim(waits=waits)
        if claimed is None:
            return False
        record, lock = claimed
        try:
            return self.run(record)
        finally:
            if lock is not None:
                lock.release()

    def restore_measured(self) -> None:
        """Measure complete trials again whose statistics were lost or damaged."""
        state = this_process()
        for record in self.study.records():
            for seed in range(len(record.scores) or 1) if record.state == "complete" else ():
                (is_lost,) = broadcast_object_list([self._is_lost(record.number, seed)])
                if is_lost:
                    run = self.folder.trial(record.number, seed)
                    self.console.print(f"{run}: its statistics are lost, and measured again")
                    if state.is_main_process:
                        (run / "results.json").unlink(missing_ok=True)
                    state.wait_for_everyone()
                    self._score(record, seed)

    def _is_lost(self, number: int, seed: int) -> bool:
        try:
            read_measured(self.folder.measured(number, seed))
        except CheckpointError:
            return True
        return False

    def _claim(self, *, waits: bool) -> tuple[TrialRecord, RunLock | None] | None:
        """Take a trial that a stopped process left, or a new one; None if there is none.

        The main process chooses for all processes, and locks the trial.
        """
        record, lock = None, None
        while this_process().is_main_process and time.monotonic() < self._deadline:
            with self.study.exclusive():
                record, lock = self._choose()
                is_over = all(each.state != "running" for each in self.study.records())
            if record is not None or is_over or not waits:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)  # another process may end without its trial's result
        (record,) = broadcast_object_list([record])
        return None if record is None else (record, lock)

    def _choose(self) -> tuple[TrialRecord | None, RunLock | None]:
        records = self.study.records()
        for record in records:
            if record.state == "running":
                try:
                    return record, self.folder.claim(record.number).acquire()
                except CheckpointError:  # another worker runs it
                    continue
        if len(records) >= self.plan.trials:
            return None, None
        record = self.study.ask()
        return record, self.folder.claim(record.number).acquire()
