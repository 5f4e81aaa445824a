"""Bootstrap intervals: how far a measurement would vary on other rows of the same kind.

Rows are resampled by Poisson weights, which needs no index arrays (Chamandy et al. 2012).

Shapes: N rows, R resamples, K values of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MOST_RESAMPLES, FEWEST_RESAMPLES = 1000, 200
LOW, HIGH = 2.5, 97.5  # percentiles
_WEIGHTS = 5_000_000  # from which there are fewer resamples: of many rows, they differ little
_AT_ONCE = 2**24


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
