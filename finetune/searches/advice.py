"""The advice of a search without a space, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from finetune.errors import shell_word
from finetune.inference.predictor import load
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import format_duration
from finetune.searches.ladder import short
from finetune.tuning.measured import Gain, gain_interval, read_measured
from finetune.tuning.search_folder import SearchFolder, format_values
from finetune.tuning.search_results import SearchResults, describe_best
from finetune.tuning.study import TrialRecord

TAKES = "takes"
"""First word of the reason why a method was not begun: it takes more time than was left."""


def advice_lines(
    results: SearchResults, complete: Sequence[TrialRecord], left_out: Mapping[str, str]
) -> Iterator[str]:
    """Say which method to take, what it gains, what it costs, and what another hour would try.

    `complete` are the methods that were trained to their end, the cheapest first; `left_out` says
    of others why they were not.
    """
    best = results.best
    yield f"take {format_values(best.values)}: {describe_best(results)}"
    yield f"it takes {_duration(best)} to train on this machine"
    place = list(complete).index(best)
    if place:
        cheaper = complete[place - 1]
        gain = measure_gain(results.folder, best, cheaper)
        yield f"over {_name(cheaper)}, the next cheaper method, which takes {_duration(cheaper)}, "
        yield f"  it gains {gain}{_doubt(gain, cheaper)}"
    elif len(complete) > 1:
        dearer = complete[1]
        gain = measure_gain(results.folder, dearer, best)
        yield f"it is the cheapest; {_name(dearer)}, the next method, takes {_duration(dearer)}"
        yield f"  and gains {gain}"
    yield f"another hour would try: {'; '.join(_further(results, left_out))}"


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


def _duration(record: TrialRecord) -> str:
    return format_duration(record.seconds or 0)


def _further(results: SearchResults, left_out: Mapping[str, str]) -> Iterator[str]:
    late = [
        f"{method}, which {reason.partition(',')[0]}"
        for method, reason in left_out.items()
        if reason.startswith(TAKES)
    ]
    if late:
        yield f"{', and '.join(late)}: the same command with time=1h"
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
