"""Bootstrap intervals of all metrics that a task computes from its statistics."""

from __future__ import annotations

import math

import numpy as np

from finetune.reporting.metric_tables import overall
from finetune.reports.intervals import Estimate, spread
from finetune.task import Task
from finetune.task_parts.samples import Stats

FEWEST_DRAWS, MOST_DRAWS = 100, 1000
MOST_VALUES = 10_000_000
"""Size of the statistics from which intervals would take minutes, and are left out."""
QUICK_DRAWS, FEWEST_ROWS, MOST_ROWS = 200, 20, 200
"""After a training: draws, and the rows from which, and up to which, metrics are resampled."""
_VALUES = 2_000_000  # from which there are fewer draws


def metric_intervals(task: Task, stats: Stats, most_draws: int = MOST_DRAWS) -> dict[str, Estimate]:
    """Return the metrics of `Task.summarize`, each with the interval of resampled rows.

    {} if the statistics are too large. The same rows are drawn on each call.
    """
    count = len(next(iter(stats.values())))
    size = sum(tensor.numel() for tensor in stats.values())
    if not count or size > MOST_VALUES:
        return {}
    rng, draws = np.random.default_rng(0), dict[str, list[float]]()
    for _ in range(int(np.clip(_VALUES // max(size, 1), FEWEST_DRAWS, most_draws))):
        drawn = rng.integers(count, size=count)
        for name, value in task.summarize({n: t[drawn] for n, t in stats.items()}).items():
            draws.setdefault(name, []).append(value)
    measured = task.summarize(stats)
    return {
        name: spread(value, np.array(draws[name]))
        for name, value in measured.items()
        if name in draws and np.isfinite(value)
    }


def quick_intervals(task: Task, stats: Stats) -> dict[str, list[float]]:
    """Return {metric: [value, low, high]} of metrics without labels; {} if that takes minutes.

    Of a task without probabilities of labels, such as detection, only a few rows are resampled.
    """
    rows = len(next(iter(stats.values()), ()))
    most = MOST_ROWS if task.views.label_scores(stats) is None else math.inf
    if not FEWEST_ROWS <= rows <= most:
        return {}
    estimates = metric_intervals(task, stats, QUICK_DRAWS)
    names = overall({name: estimate.value for name, estimate in estimates.items()})
    return {name: list(estimates[name]) for name in names}
