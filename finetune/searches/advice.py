"""The advice of a search without a space, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from finetune.errors import shell_word
from finetune.inference.predictor import load
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import format_duration
from finetune.searches.ladder import short
from finetune.tuning.measured import Gain, gain_interval, read_measured
from finetune.tuning.search_folder import SearchFolder, format_values
from finetune.tuning.search_results import SearchResults, describe_best
from finetune.tuning.study import TrialRecord

HOUR = 3600.0


class MethodCost(NamedTuple):
    """Estimated cost of a run to its end, in seconds.

    Attributes:
        total: of the whole run, features included.
        once: of the features, which are computed once and shared by later runs.
    """

    total: float
    once: float


def advice_lines(
    results: SearchResults,
    complete: Sequence[TrialRecord],
    costs: Mapping[str, MethodCost],
    late: Sequence[str],
) -> Iterator[str]:
    """Say which method to take, what it gains, what it costs, and what another hour would try.

    `complete` are the methods that were trained to their end, the cheapest first; `late` those
    that more time would have trained to their end.
    """
    best = results.best

    def takes(record: TrialRecord) -> str:
        return _describe_cost(record, results, costs.get(_name(record)))

    yield f"take {format_values(best.values)}: {describe_best(results)}"
    yield f"it takes {takes(best)} to train on this machine"
    place = list(complete).index(best)
    if place:
        cheaper = complete[place - 1]
        gain = measure_gain(results.folder, best, cheaper)
        yield f"over {_name(cheaper)}, the next cheaper method, which takes {takes(cheaper)}, "
        yield f"  it gains {gain}{_doubt(gain, cheaper)}"
    elif len(complete) > 1:
        dearer = complete[1]
        gain = measure_gain(results.folder, dearer, best)
        yield f"it is the cheapest; {_name(dearer)}, the next method, takes {takes(dearer)}"
        yield f"  and gains {gain}"
    elif late:
        yield "no other method was trained to its end, so what others gain is not known"
    yield from _outlook(results, costs, late)


def measure_gain(folder: SearchFolder, better: TrialRecord, other: TrialRecord) -> Gain:
    """Measure the gain of one trial over another on the validation rows."""
    own, others = (folder.measured(each.number) for each in (better, other))
    task = load(folder.trial(better.number)).trained_task
    _, metric = read_measured(own)
    return gain_interval(own, others, metric, task.summarize)


def _doubt(gain: Gain, cheaper: TrialRecord) -> str:
    return f", which may be chance: {_name(cheaper)} may do as well" if gain.low <= 0 else ""


def _name(record: TrialRecord) -> str:
    return str(record.values["method"])


def _describe_cost(record: TrialRecord, results: SearchResults, cost: MethodCost | None) -> str:
    """Return the time of a run, and that of its features if an earlier run has computed them."""
    words = format_duration(record.seconds or 0)
    runs = sum(_name(each) == _name(record) for each in results.records)
    if cost is not None and cost.once and runs > 1:
        words += f" (after about {format_duration(cost.once)} for features, computed once)"
    return words


def _outlook(
    results: SearchResults, costs: Mapping[str, MethodCost], late: Sequence[str]
) -> Iterator[str]:
    """Say what another hour would try, and what takes more than that."""
    total, within, beyond = 0.0, list[str](), list[str]()
    for method in sorted(late, key=lambda each: costs[each].total if each in costs else 0):
        if method not in costs:
            within.append(f"{method}, which was not timed")
            continue
        total += costs[method].total
        words = f"{method}, which takes about {format_duration(costs[method].total)}"
        (within if total <= HOUR else beyond).append(words)
    tries = [f"{', and '.join(within)}: the same command with time=1h"] if within else []
    yield f"another hour would try: {'; '.join([*tries, *_refinements(results)])}"
    if beyond:
        hours = math.ceil(total / HOUR)
        yield f"longer than that: {', and '.join(beyond)}: the same command with time={hours}h"


def _refinements(results: SearchResults) -> Iterator[str]:
    """Yield what could make the best method better."""
    run = RunFolder(results.folder.trial(results.best.number)).read("results.json")
    if run["selected_on"] and run["step"] == run.get("steps"):
        yield "more epochs, since the last evaluation was the best"
    rate = results.best.values.get("lr")
    if rate is not None:
        config = shell_word(results.folder.path / "best.yaml")
        near = f"lr=log({short(rate / 3):g}, {short(rate * 3):g})"
        yield f"other rates, `finetune search {config} '{near}' time=1h`"
    else:
        yield "other seeds (seeds=3), to see how much of the score is due to them"
