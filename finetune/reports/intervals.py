"""Bootstrap intervals: how far a measurement would vary on other rows of the same kind.

Rows are resampled by Poisson weights, which needs no index arrays (Chamandy et al. 2012); for the
metrics of a task, whose statistics may not be weighted, by indices.

Shapes: N rows, R resamples, K values of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.reporting.metric_tables import overall
from finetune.task import Task, make_summarizer
from finetune.task_parts.samples import Stats

Array = NDArray[Any]
MOST_RESAMPLES, FEWEST_RESAMPLES = 1000, 200
LOW, HIGH = 2.5, 97.5  # percentiles
_WEIGHTS = 5_000_000  # from which there are fewer resamples: of many rows, they differ little
_AT_ONCE = 2**24

FEWEST_DRAWS, MOST_DRAWS = 100, 1000
MOST_VALUES = 10_000_000
"""Size of the statistics from which intervals would take minutes, and are left out."""
QUICK_DRAWS, FEWEST_ROWS, MOST_ROWS = 200, 20, 200
"""After a training: draws, and the rows from which, and up to which, metrics are resampled."""
QUICK_VALUES = 2_000_000
"""Size of the statistics up to which that takes seconds: 2000 rows of 1000 classes."""
_VALUES = 2_000_000  # from which there are fewer draws


class Estimate(NamedTuple):
    """A measured value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def resampled_sums(values: Array) -> Array:
    """Return sums [R, K] of the values [N, K] of resampled rows, the same rows on each call."""
    rng, rows = np.random.default_rng(0), max(len(values), 1)
    resamples = int(np.clip(_WEIGHTS // rows, FEWEST_RESAMPLES, MOST_RESAMPLES))
    at_once = max(1, _AT_ONCE // rows)
    sums = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        sums.append(rng.poisson(1.0, (count, len(values))).astype(np.float64) @ values)
    return np.concatenate(sums)


def interval(values: Array, measure: Callable[[Array], Array]) -> Estimate:
    """Return a measurement and its interval; `measure` maps sums [..., K] over rows to it."""
    return spread(float(measure(values.sum(0))), measure(resampled_sums(values)))


def spread(value: float, resampled: Array) -> Estimate:
    """Return a value with the interval of its resampled measurements [R]."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Estimate(value, value, value)
    low, high = np.percentile(known, [LOW, HIGH])
    return Estimate(value, min(float(low), value), max(float(high), value))


def mean_interval(values: Array) -> Estimate:
    """Return the mean of values [N] and its interval."""
    counted = np.stack([values, np.ones(len(values))], 1).astype(np.float64)
    return interval(counted, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def metric_intervals(task: Task, stats: Stats, most_draws: int = MOST_DRAWS) -> dict[str, Estimate]:
    """Return the metrics of `Task.summarize`, each with the interval of resampled rows.

    {} if the statistics are too large. The same rows are drawn on each call.
    """
    count = len(next(iter(stats.values())))
    size = sum(tensor.numel() for tensor in stats.values())
    if not count or size > MOST_VALUES:
        return {}
    rng, draws = np.random.default_rng(0), dict[str, list[float]]()
    summarize = make_summarizer(task, stats)
    for _ in range(int(np.clip(_VALUES // max(size, 1), FEWEST_DRAWS, most_draws))):
        drawn = rng.integers(count, size=count)
        for name, value in summarize(drawn.tolist()).items():
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
    size = sum(tensor.numel() for tensor in stats.values())
    if not FEWEST_ROWS <= rows <= most or size > QUICK_VALUES:
        return {}
    estimates = metric_intervals(task, stats, QUICK_DRAWS)
    names = overall({name: estimate.value for name, estimate in estimates.items()})
    return {name: list(estimates[name]) for name in names}
