"""A search without a space: which method of the ladder is worth its time on these rows.

Each method, from the cheapest on, is trained for a ninth of its length with three learning rates,
and to its end with the best of them. What cannot end within the time is not begun.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune.batching.shared_rows import SharedRows
from finetune.config.schema import TaskConfig
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.distributed.signals import Interrupted
from finetune.errors import ConfigError, FinetuneError
from finetune.inference.predictor import load
from finetune.inspection.run_costs import time_steps
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console, format_duration
from finetune.search_space.search_plan import METHOD, SearchPlan
from finetune.search_space.space import Choice, Values
from finetune.task import Task
from finetune.training.run import read_splits, run
from finetune.training.setup import assemble
from finetune.training.state import TrialHooks
from finetune.tuning.measured import gain_interval, read_measured, save_measured
from finetune.tuning.search_folder import SearchFolder, format_values
from finetune.tuning.search_results import (
    SearchResults,
    describe_best,
    estimate_optimism,
    measure_on_test,
    show_search,
    write_results,
)
from finetune.tuning.study import State, TrialRecord, best_of
from finetune.tuning.trials import log_console

LADDER = ("frozen", "lora", "partial", "full")
FACTORS = (1 / 3, 1.0, 3.0)
"""Learning rates that are tried, as multiples of the default."""
SHARE = 1 / 9
"""Share of the epochs, and so of the rows if there are few, that decides between the rates."""


@dataclass(frozen=True)
class _Prospect:
    """A method before it is trained.

    Attributes:
        lengths: {"train.epochs" or "train.max_steps": its length}.
        rate: its default learning rate; None if no other one is tried.
        seconds: estimate of the time that a run takes.
    """

    method: str
    lengths: dict[str, float]
    rate: float | None
    seconds: float


def advise(
    plan: SearchPlan,
    folder: SearchFolder,
    make_task: Callable[[TaskConfig], Task],
    data: Any = None,
) -> SearchResults:
    """Try the ladder of methods within search.time; print and write the results, and the advice.

    Raises FinetuneError.
    """
    settings = plan.settings
    if this_process().num_processes > 1 or (settings.workers or 1) > 1 or settings.on is not None:
        raise ConfigError(
            "search.space: without a space, methods are tried one by one in a single process; "
            "leave out search.workers, search.on and the launcher, or give a key several values"
        )
    ladder = tuple(plan.methods) if METHOD in plan.names.values() else LADDER
    names = {**plan.names, "method": METHOD, "lr": "optim.lr"}
    plan = replace(plan, space={"method": Choice(ladder)}, names=names)
    return _Advisor(plan, folder, make_task, data).advise()


class _Advisor:
    def __init__(
        self,
        plan: SearchPlan,
        folder: SearchFolder,
        make_task: Callable[[TaskConfig], Task],
        data: Any,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.make_task = make_task
        self.data = data
        self.console = Console()
        self._shared = SharedRows()
        self._deadline = time.monotonic() + (plan.settings.time or math.inf)
        self._records: list[TrialRecord] = []
        self._left_out: dict[str, str] = {}
        """{method: why it was not tried}"""

    def advise(self) -> SearchResults:
        """Try each method, measure the best one on test, and print the advice."""
        self.folder.begin(self.plan)
        self.folder.check_same(self.plan)
        self.console.heading(
            f"search without a space: {', '.join(self.plan.methods)}, output in {self.folder.path}"
        )
        fault = None
        for place, method in enumerate(self.plan.methods):
            try:
                self._try(self._look_at(method), place * (len(FACTORS) + 1))
            except Interrupted:
                raise
            except FinetuneError as error:  # a method that this network or task does not have
                fault, reason = error, str(error).partition("\n")[0]
                self._left_out[method] = reason
                self.console.print(f"{method} is left out: {reason}")
        if not self._complete:
            raise fault or FinetuneError(f"{self.folder.path}: no method was tried; give more time")
        return self._conclude()

    @property
    def _complete(self) -> list[TrialRecord]:
        """Methods that were trained to their end, in the order of the ladder."""
        return [record for record in self._records if record.state == "complete"]

    def _look_at(self, method: str) -> _Prospect:
        """Load the network with a method; estimate the time of a run from that of a step."""
        config = self.plan.load({"method": method}).config
        task, console = self.make_task(config.task), self.console
        with console.during(f"timing a step of {method}"):
            splits, _ = read_splits(config, task, self.data, console, self._shared)
            precision, _ = choose_precision(config.train.precision, this_process().device)
            accelerator = make_accelerator(precision)
            # Rows are measured without test, as for the runs that follow.
            prepared = assemble(config, task, replace(splits, test=None), accelerator, self._shared)
            live = prepared.live
            every = live.config.train.evaluate_every
            steps = every if isinstance(every, int) else live.plan.steps_per_epoch
            seconds = time_steps(prepared).total(math.ceil(live.total_steps / steps))
        train, optim = live.config.train, live.config.optim
        key = "train.epochs" if train.max_steps is None else "train.max_steps"
        length = train.epochs if train.max_steps is None else train.max_steps
        rate = optim.head_lr if live.method.freezes_backbone else optim.lr
        is_fixed = config.optim.lr is not None or live.method.solves_head
        return _Prospect(method, {key: length or 1}, None if is_fixed else rate, seconds)

    def _try(self, prospect: _Prospect, number: int) -> None:
        """Train a method with the best of some rates, if its time is left."""
        left = self._deadline - time.monotonic()
        if prospect.seconds > left:
            reason = f"takes about {format_duration(prospect.seconds)}"
            self._left_out[prospect.method] = reason
            self.console.print(
                f"{prospect.method} is not begun: it {reason}, {format_duration(max(left, 0))} left"
            )
            return
        values: dict[str, Any] = {"method": prospect.method}
        if prospect.rate is not None:
            default = values["lr"] = _short(prospect.rate)
            if prospect.seconds * (1 + SHARE * len(FACTORS)) <= left:
                short = {key: _share(key, value) for key, value in prospect.lengths.items()}
                tried = [
                    self._train(number + place, values | {"lr": _short(default * factor)}, short)
                    for place, factor in enumerate(FACTORS)
                ]
                # Of equal rates, the default.
                best = max(tried, key=lambda each: (_score(each), each.values["lr"] == default))
                values = best.values
        self._train(number + len(FACTORS), values, {})

    def _train(self, number: int, values: dict[str, Any], short: dict[str, float]) -> TrialRecord:
        """Train one trial, or resume it; `short` is its length unless it is trained to its end."""
        path, measured = self.folder.trial(number), self.folder.measured(number)
        loaded = self.plan.load(values, **short, **{"output.dir": str(path)})
        hooks = TrialHooks(
            self._shared,
            evaluated=lambda *_: None,
            saved=lambda: None,
            finished=lambda live, splits: save_measured(measured, live, splits["validation"]),
        )
        task = self.make_task(loaded.config.task)
        with log_console(self.folder.log(number)) as console:
            run(loaded, task, data=self.data, hooks=hooks, console=console)
        score, metric = read_measured(measured)
        seconds = RunFolder(path).read("results.json")["seconds"]
        state: State = "pruned" if short else "complete"
        record = TrialRecord(number, state, values, score, seconds=seconds)
        self._records.append(record)
        length = " ".join(f"{key}={value:g}" for key, value in short.items())
        self.console.print(
            f"trial {number}: {format_values(values)} {length}".rstrip()
            + f"  {metric.describe(score)}  {format_duration(seconds)}"
        )
        return record

    def _conclude(self) -> SearchResults:
        best = best_of(self._records)
        assert best is not None
        _, metric = read_measured(self.folder.measured(best.number))
        rates = dict.fromkeys(each.values["lr"] for each in self._records if "lr" in each.values)
        space: dict[str, Values] = dict(self.plan.space)
        if rates:
            space["lr"] = Choice(tuple(rates))
        plan = replace(self.plan, space=space)
        results = SearchResults(self.folder, plan, self._records, best, metric, {})
        path = self.folder.trial(best.number)
        measure_on_test(RunFolder(path), partial(self._finish, best))
        results = replace(results, optimism=estimate_optimism(results))
        write_results(results)
        show_search(results, self.console)
        self.console.heading("advice")
        for line in self._advice(results):
            self.console.print(f"  {line}")
        return results

    def _finish(self, best: TrialRecord) -> None:
        """Finish the run of the best trial again, with its test split."""
        path = self.folder.trial(best.number)
        loaded = self.plan.load(best.values, **{"output.dir": str(path)})
        task = self.make_task(loaded.config.task)
        with log_console(self.folder.log(best.number)) as console:
            run(loaded, task, data=self.data, console=console)

    def _advice(self, results: SearchResults) -> Iterator[str]:
        """Say in words which method, what it gains, what it costs, and what to try next."""
        best, metric = results.best, results.metric
        yield f"take {format_values(best.values)}: {describe_best(results)}"
        place = self._complete.index(best)
        yield f"it takes {format_duration(best.seconds or 0)} to train" + (
            "" if place else "; it is the cheapest method that was tried"
        )
        if place:
            cheaper = self._complete[place - 1]
            own, other = (self.folder.measured(each.number) for each in (best, cheaper))
            task = load(self.folder.trial(best.number)).trained_task
            gain, low, high = gain_interval(own, other, metric, task.summarize)
            name = cheaper.values["method"]
            duration = format_duration(cheaper.seconds or 0)
            if math.isnan(gain):
                gain = _score(best) - _score(cheaper)
                words = f"{gain:+.4f}, without an interval: it is not computed from single rows"
            else:
                words = f"{gain:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, bootstrap over rows"
                words += "), which may be chance" if low <= 0 else ")"
            yield f"it gains {words}; the next cheaper method, {name}, takes {duration}"
        yield f"another hour would try: {'; '.join(self._further(results))}"

    def _further(self, results: SearchResults) -> Iterator[str]:
        for method, reason in self._left_out.items():
            if reason.startswith("takes"):
                yield f"method={method}, which {reason}"
        run = RunFolder(self.folder.trial(results.best.number)).read("results.json")
        if run["selected_on"] and run["step"] == run.get("steps"):
            yield "more epochs, since the last evaluation was the best"
        rate = results.best.values.get("lr")
        if rate is not None:
            low, high = _short(rate / 3), _short(rate * 3)
            config = results.folder.path / "best.yaml"
            yield f"`finetune search {config} 'lr=log({low:g}, {high:g})' time=1h`"
        else:
            yield "search.seeds=3, to see how much of the score is due to the seed"


def _short(rate: float) -> float:
    return float(f"{rate:.2g}")


def _share(key: str, length: float) -> float:
    """Return the short length: part of the epochs, or of the steps."""
    return max(1, round(length * SHARE)) if key == "train.max_steps" else length * SHARE


def _score(record: TrialRecord) -> float:
    return -math.inf if record.score is None or math.isnan(record.score) else record.score
