"""Pictures of a search: its history, the importance of each key, and each key against the score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from finetune.reporting.plots import Drawing
from finetune.search_space.space import Choice, Interval, Values, format_item
from finetune.tuning.measured import RankedBy
from finetune.tuning.study import TrialRecord

_COLUMNS = 3  # panels side by side


def plot_search(records: Sequence[TrialRecord], metric: RankedBy) -> Drawing:
    """Plot the score of each trial in order, and the best one so far."""
    figure = Drawing(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    _scatter(axes, [(record.number, record) for record in records], metric)
    complete = [record for record in records if record.state == "complete"]
    best, steps = -math.inf, []
    for record in complete:
        best = max(best, record.score or best)
        steps.append((record.number, metric.value(best)))
    steps.append((len(records) - 1, metric.value(best)))
    axes.step(*zip(*steps, strict=True), where="post", color="C1", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=f"validation {metric.name}")
    axes.legend(frameon=False)
    return figure


def plot_importances(importances: Mapping[str, float]) -> Drawing:
    """Plot the share of each key in the variation of the scores."""
    figure = Drawing(figsize=(6, 0.6 + 0.4 * len(importances)), layout="constrained")
    axes = figure.subplots()
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names])
    axes.set(xlabel="share of the variation of the score", xlim=(0, 1))
    return figure


def plot_keys(
    records: Sequence[TrialRecord], space: Mapping[str, Values], metric: RankedBy
) -> Drawing:
    """Plot the score of each trial against its value of each key."""
    rows = math.ceil(len(space) / _COLUMNS)
    columns = min(len(space), _COLUMNS)
    figure = Drawing(figsize=(4 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (key, values), axes in zip(space.items(), panels, strict=False):
        own = [(record.values[key], record) for record in records if key in record.values]
        if isinstance(values, Choice):
            axes.xaxis.update_units(list(map(format_item, values.values)))  # in their order
            own = [(format_item(value), record) for value, record in own]
        _scatter(axes, own, metric)
        if isinstance(values, Interval) and values.log:
            axes.set_xscale("log")
        elif isinstance(values, Interval) and values.is_whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=key, ylabel=metric.name)
    for axes in list(panels):
        axes.set_visible(False)
    return figure


def _scatter(axes: Axes, points: Sequence[tuple[Any, TrialRecord]], metric: RankedBy) -> None:
    """Draw complete trials as dots, pruned ones as circles."""
    for state, face in (("complete", "C0"), ("pruned", "none")):
        own = [(x, r.score) for x, r in points if r.state == state and r.score is not None]
        if own:
            values = [metric.value(score) for _, score in own]
            axes.scatter([x for x, _ in own], values, facecolors=face, edgecolors="C0", label=state)
    axes.grid(alpha=0.3)
