"""A search without a space: which method of the ladder is worth its time on these rows.

Each method, from the cheapest on, is trained with some learning rates, of which successive halving
leaves the best one. What cannot end within the time is not begun.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from finetune.config.text_files import read_json_as
from finetune.distributed.launch import this_process
from finetune.distributed.signals import Interrupted
from finetune.errors import ConfigError, FinetuneError, format_count
from finetune.io.files import write_json
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console, format_duration
from finetune.search_space.search_plan import METHOD
from finetune.search_space.space import Choice
from finetune.searches.advice import MethodCost, advice_lines, measure_gain
from finetune.searches.ladder import LADDER, RUNGS, Prospect, look_at
from finetune.training.state import TrialHooks
from finetune.tuning.measured import read_measured, save_measured
from finetune.tuning.search_folder import format_values
from finetune.tuning.search_results import (
    SearchResults,
    estimate_optimism,
    show_search,
    write_results,
)
from finetune.tuning.study import State, TrialRecord, best_of
from finetune.tuning.trial_training import TrialTraining

RECORD = "ladder.json"


def advise(training: TrialTraining) -> SearchResults:
    """Try the ladder of methods within search.time; print and write the results, and the advice.

    Raises FinetuneError.
    """
    plan = training.plan
    settings = plan.settings
    if this_process().num_processes > 1 or (settings.workers or 1) > 1 or settings.on is not None:
        raise ConfigError(
            "search.space: without a space, methods are tried one by one in a single process; "
            "leave out search.workers, search.on and the launcher, or give a key several values"
        )
    ladder = tuple(plan.methods) if METHOD in plan.names.values() else LADDER
    names = {**plan.names, "method": METHOD, "lr": "optim.lr"}
    names |= {key: key for key in ("train.epochs", "train.max_steps")}
    training.plan = replace(plan, space={"method": Choice(ladder)}, names=names)
    return _Advisor(training).advise()


class _OutOfTime(Exception):  # noqa: N818 - a decision, not an error
    """End of a run that goes on when the search is started again."""


class _Advisor:
    def __init__(self, training: TrialTraining) -> None:
        self.training = training
        self.plan = training.plan
        self.folder = training.folder
        self.console = Console()
        self._deadline = time.monotonic() + (self.plan.settings.time or math.inf)
        self._tried: dict[float, list[TrialRecord]] = {}
        """{share of the length: runs of this length}"""
        self._overhead = 0.0
        """Seconds that a run takes beside its steps, at most, by those that have ended."""
        self._fault: FinetuneError | None = None
        self._left_out: dict[str, str] = {}
        """{method: why it was not trained to its end}"""
        self._late: list[str] = []
        """Those of them that more time would have trained to their end."""
        self._costs: dict[str, MethodCost] = {}

    def advise(self) -> SearchResults:
        """Try each method, finish the best one, and print the advice."""
        self.folder.begin(self.plan)
        self.folder.check_same(self.plan)
        self.console.heading(
            f"search without a space: {', '.join(self.plan.methods)}, output in {self.folder.path}"
        )
        # The cheapest method first of all: whatever the time, there is an answer with it.
        for methods in (self.plan.methods[:1], self.plan.methods[1:]):
            prospects = self._look_at_all(methods)
            for place, prospect in enumerate(prospects):
                try:
                    self._try(prospect, prospects[place + 1 :])
                except Interrupted:
                    raise
                except _OutOfTime:
                    reason = "did not end in time; the same command goes on with it"
                    self._leave_out(prospect.method, reason, is_late=True)
                except FinetuneError as error:
                    self._note_fault(prospect.method, error)
        if not self._complete:
            reasons = "; ".join(f"{method} {why}" for method, why in self._left_out.items())
            raise self._fault or FinetuneError(
                f"{self.folder.path}: no method can be trained within the time ({reasons}); give "
                "more time, fewer rows (data.limit) or fewer epochs"
            )
        return self._conclude()

    @property
    def _complete(self) -> list[TrialRecord]:
        """Methods that were trained to their end, the cheapest first."""
        return self._tried.get(1.0, [])

    @property
    def _left(self) -> float:
        """Seconds until the time is up."""
        return max(self._deadline - time.monotonic(), 0.0)

    def _leave_out(self, method: str, reason: str, *, is_late: bool = False) -> None:
        self._left_out[method] = reason
        if is_late:
            self._late.append(method)
        self.console.print(f"{method} is left out: {reason}")

    def _note_fault(self, method: str, fault: FinetuneError) -> None:
        """Leave out a method that this network or task does not have; print each fault once."""
        self._fault = self._fault or fault
        reason = str(fault).partition("\n")[0]
        if reason in self._left_out.values():
            self._left_out[method] = reason
        else:
            self._leave_out(method, reason)

    def _look_at_all(self, methods: Sequence[str]) -> list[Prospect]:
        """Time a step of each of some methods; return them from the cheapest on."""
        prospects = []
        for method in methods:
            if self._complete and not self._left:
                self._leave_out(method, "was not timed, since the time is up", is_late=True)
                continue
            try:
                prospects.append(self._look_at(method))
            except FinetuneError as error:
                self._note_fault(method, error)
        return sorted(prospects, key=lambda prospect: prospect.total((), self._overhead))

    def _look_at(self, method: str) -> Prospect:
        """Time a step of a method, and print it."""
        values = {"method": method}
        loaded = self.plan.load(values)
        task = self.training.make_task(loaded.config.task)
        with self.console.during(f"timing a step of {method}"):
            splits = self.training.splits(loaded, task, self.console)
            prospect = look_at(loaded.config, task, splits, self.training.shared)
        steps = f"{format_count(prospect.steps, 'step')} of about {prospect.step_seconds:.2g} s"
        once = prospect.cost.once_seconds
        features = f", features in about {format_duration(once)}, computed once" if once else ""
        self.console.print(f"{method}: {steps}{features}")
        self._costs[method] = MethodCost(prospect.total((), self._overhead), once)
        return prospect

    def _try(self, prospect: Prospect, later: Sequence[Prospect]) -> None:
        """Train a method to its end with the best of its rates, if its time is left.

        `later` are methods that are tried after it.
        """
        left = self._left
        rungs = prospect.rungs(left, self._overhead)
        if rungs is None:
            needed = format_duration(prospect.total((), self._overhead))
            reason = f"takes about {needed}, and {format_duration(left)} are left"
            self._leave_out(prospect.method, reason, is_late=True)
            return
        values: dict[str, Any] = {"method": prospect.method}
        candidates = [values | {"lr": rate} for rate in prospect.rates] or [values]
        for count, share in rungs:
            runs = self._compete(prospect, candidates[:count], share)
            candidates = [each for each, _ in runs] or candidates
            may_leave = share == RUNGS[-1].share and not self._has_time_for_all(prospect, later)
            if runs and may_leave and self._is_behind(runs[0][1], share):
                return
        self._train(prospect, candidates[0], 1.0)

    def _compete(
        self, prospect: Prospect, candidates: Sequence[dict[str, Any]], share: float
    ) -> list[tuple[dict[str, Any], TrialRecord]]:
        """Train candidates for a share of the length; return them, the best one first.

        Candidates are skipped once no time is left, because others took longer than estimated.
        """
        runs = []
        for values in candidates:
            if self._left < prospect.seconds() + self._overhead:
                break
            runs.append((values, self._train(prospect, values, share)))
        return sorted(runs, key=lambda run: _score(run[1]), reverse=True)  # of equals, the default

    def _has_time_for_all(self, prospect: Prospect, later: Sequence[Prospect]) -> bool:
        """True if a method and all later ones can be trained to their end before the time is up.

        False without a limit, so that methods that are clearly worse end early.
        """
        needed = prospect.seconds() + self._overhead
        needed += sum(each.total((), self._overhead) for each in later)
        return needed <= self._left < math.inf

    def _is_behind(self, record: TrialRecord, share: float) -> bool:
        """True for a method that is worse than a cheaper one after this share of the length."""
        method = record.values["method"]
        others = [each for each in self._tried[share] if each.values["method"] != method]
        if not others:
            return False
        cheaper = max(others, key=_score)
        gain = measure_gain(self.folder, record, cheaper)
        if not gain.high < 0:
            return False
        than = cheaper.values["method"]
        reason = f"after {share:.0%} of the length, it gains {gain} over {than}"
        self._leave_out(method, reason, is_late=True)
        return True

    def _train(self, prospect: Prospect, values: dict[str, Any], share: float) -> TrialRecord:
        """Train one trial for a share of its length, or resume it, and print its score."""
        values = values | (prospect.shortened(share) if share < 1 else {})
        number = self._number(values)
        measured, started = self.folder.measured(number), time.monotonic()
        hooks = TrialHooks(lambda *_: None, self._check_time, partial(save_measured, measured))
        self.training.train(number, values, hooks)
        if self._tried and share in self._tried:  # not the first run, which computes the features
            steps = prospect.seconds(share)
            self._overhead = max(self._overhead, time.monotonic() - started - steps)
        score, metric = read_measured(measured)
        seconds = RunFolder(self.folder.trial(number)).read("results.json")["seconds"]
        state: State = "complete" if share == 1 else "pruned"
        record = TrialRecord(number, state, values, score, seconds=seconds)
        self._tried.setdefault(share, []).append(record)
        words = f"trial {number}: {format_values(values)}  {metric.describe(score)}"
        self.console.print(f"{words}  {format_duration(seconds)}")
        return record

    def _check_time(self) -> None:
        """End a run that takes longer than was estimated, if there is an answer without it."""
        if self._complete and time.monotonic() > self._deadline:
            raise _OutOfTime

    def _number(self, values: dict[str, Any]) -> int:
        """Return the number of the run with these values: that of an earlier start, or a new one.

        Which runs there are depends on the time, so their numbers are kept in a file.
        """
        path = self.folder.path / RECORD
        known = read_json_as(list[dict[str, Any]], path) if path.is_file() else []
        if values not in known:
            known.append(values)
            write_json(path, known)
        return known.index(values)

    def _conclude(self) -> SearchResults:
        """Finish the best run, print and write the results, and print the advice."""
        records = sorted(chain(*self._tried.values()), key=lambda record: record.number)
        best = best_of(records)
        assert best is not None
        _, metric = read_measured(self.folder.measured(best.number))
        keys = dict.fromkeys(key for record in records for key in record.values)
        plan = replace(self.plan, space={key: _choice(records, key) for key in keys})
        results = SearchResults(self.folder, plan, records, best, metric, {})
        self.training.finish(best.number, best.values)
        results = replace(results, optimism=estimate_optimism(results))
        write_results(results)
        show_search(results, self.console)
        self.console.heading("advice")
        for line in advice_lines(results, self._complete, self._costs, self._late):
            self.console.print(f"  {line}")
        return results


def _choice(records: Iterable[TrialRecord], key: str) -> Choice:
    """Return the values of a key that were tried."""
    tried = dict.fromkeys(record.values[key] for record in records if key in record.values)
    return Choice(tuple(tried))


def _score(record: TrialRecord) -> float:
    return -math.inf if record.score is None or math.isnan(record.score) else record.score
