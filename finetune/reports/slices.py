"""Slices: groups of held-out rows, and how the metric there differs from that of all other rows.

fairlearn's MetricFrame measures the groups. The 95 % intervals are those of the bootstrap for
accuracies, and of a jackknife over ten groups of rows for other metrics, which take longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from finetune.config.best_metric import Direction, direction_of
from finetune.config.schema import ReportConfig
from finetune.errors import ConfigError
from finetune.inference.evaluate import Measured
from finetune.reports.disparities import measure_disparities
from finetune.reports.intervals import Estimate, resampled_sums, spread
from finetune.reports.label_ranking import has_cleanlab, rank_doubtful
from finetune.reports.slice_columns import automatic_columns, check_column, named_columns
from finetune.task_parts.rows import Rows

INSTALL = "pip install 'finetune-kit[report]'"
FEWEST_ROWS = 20
"""Rows of a slice, and outside of it, from which it is measured."""
FEWEST_DIVIDED = 100
"""Rows of a split from which slices that no key names are measured."""
MOST_DIVIDED = 1000
"""Likewise, if the metric is not a share of right rows, which takes longer."""
_PARTS, _QUANTILE = 10, 2.262  # of Student's t with 9 degrees of freedom
_Rows = NDArray[np.int64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """The rows with one value of a column.

    Attributes:
        result: the metric on these rows.
        gap: that result minus the one on all other rows.
    """

    column: str
    value: str
    rows: int
    result: Estimate
    gap: Estimate


@dataclass(frozen=True)
class Slices:
    """The slices of a split, the worst first.

    Attributes:
        overall: the metric on all rows.
        too_small: {"column=value": rows} of slices that are not measured.
    """

    split: str
    metric: str
    direction: Direction
    overall: float
    slices: list[Slice]
    too_small: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """Return what results.json holds: [value, low, high], or [value] without an interval."""
        return {
            "split": self.split,
            "metric": self.metric,
            "direction": self.direction,
            "overall": self.overall,
            "slices": [
                {
                    "column": each.column,
                    "value": each.value,
                    "rows": each.rows,
                    "result": _finite(each.result),
                    "gap": _finite(each.gap),
                }
                for each in self.slices
            ],
            "too_small": self.too_small,
        }


def _finite(estimate: Estimate) -> list[float]:
    return [value for value in estimate if math.isfinite(value)]


def has_fairlearn() -> bool:
    """True if the library that measures groups is installed."""
    return find_spec("fairlearn") is not None


def check_report_columns(config: ReportConfig, rows: Dataset | None, task_rows: Rows) -> None:
    """Raise ConfigError or DataError for slices and groups that could not be measured on `rows`."""
    wanted = {"report.slices": wanted_columns(config), "report.groups": config.groups}
    for key, names in wanted.items():
        if not names:
            continue
        if rows is None:
            raise ConfigError(f"{key}: no rows are held out; set data.test, or leave it out")
        if not has_fairlearn():
            raise ConfigError(f"{key}: fairlearn is not installed; {INSTALL}")
        for name in names:
            check_column(key, name, rows, task_rows)


def wanted_columns(config: ReportConfig) -> list[str]:
    """Return the columns that report.slices names."""
    return list(config.slices) if isinstance(config.slices, list) else []


def measure_report(
    measured: Measured, config: ReportConfig, metric: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Measure slices, groups and doubtful labels of a split; return them for results.json.

    Without fairlearn or cleanlab, or for few rows, what the config does not name is left out.
    """
    columns = named_columns(measured, wanted_columns(config))
    if config.slices != "none" and has_fairlearn() and _is_quick(measured, metric):
        columns = automatic_columns(measured, seed) | columns
    facts = dict[str, Any]()
    found = measure_slices(measured, columns, metric) if columns else None
    if found is not None and math.isfinite(found.overall):  # a loss is no metric of any rows
        facts["slices"] = found.facts()
    if config.groups:
        facts["groups"] = [each.facts() for each in measure_disparities(measured, config.groups)]
    scores = measured.task.views.label_scores(measured.evaluation.stats)
    if scores is not None and len(measured.split) >= FEWEST_DIVIDED and has_cleanlab():
        doubtful = len(rank_doubtful(scores))
        rows = len(measured.split)
        facts["doubtful"] = {"split": measured.split.name, "rows": doubtful, "of": rows}
    return facts


def _is_quick(measured: Measured, metric: str | None) -> bool:
    """True if slices that no key names say something about the split, and take seconds."""
    rows = len(measured.split)
    if isinstance(_make_judge(measured, metric or measured.task.metric[0]), _HitRate):
        return rows >= FEWEST_DIVIDED
    return FEWEST_DIVIDED <= rows <= MOST_DIVIDED and measured.task.score is None


def measure_slices(
    measured: Measured, columns: Mapping[str, Sequence[str]], metric: str | None = None
) -> Slices:
    """Compare the rows with each value of the columns with all others, by the task's metric."""
    name, known = metric or measured.task.metric[0], dict([measured.task.metric])
    direction = known.get(name, direction_of(name))
    sign = 1 if direction == "max" else -1
    judge = _make_judge(measured, name)
    slices, too_small = list[Slice](), dict[str, int]()
    for column, values in columns.items():
        counts = dict(sorted(Counter(values).items()))
        small = {v: n for v, n in counts.items() if min(n, len(values) - n) < FEWEST_ROWS}
        too_small |= {f"{column}={value}": count for value, count in small.items()}
        cells = np.array(values, dtype=object)
        results = _by_value(judge, cells, np.flatnonzero([each not in small for each in values]))
        for value, result in results.items():
            inside = cells == value
            gap = result - judge.measure(np.flatnonzero(~inside))
            if np.isfinite([result, gap]).all():
                estimates = judge.estimate(result, gap, inside)
                slices.append(Slice(column, value, counts[value], *estimates))
    slices.sort(key=lambda each: (sign * each.gap.value, each.column, each.value))
    overall = judge.measure(np.arange(len(measured.split)))
    return Slices(measured.split.name, name, direction, overall, slices, too_small)


def _by_value(judge: _Judge, cells: NDArray[np.object_], rows: _Rows) -> dict[str, float]:
    """Return the metric on those of the rows that have each value."""
    from fairlearn.metrics import MetricFrame

    if not len(rows):
        return {}
    frame = MetricFrame(
        metrics=lambda rows, _: judge.measure(np.asarray(rows)),
        y_true=rows,
        y_pred=rows,
        sensitive_features=cells[rows],
    )
    return {str(value): float(result) for value, result in frame.by_group.items()}


class _Judge(Protocol):
    """A metric of any rows, and its intervals."""

    def measure(self, rows: _Rows) -> float: ...

    def estimate(self, result: float, gap: float, inside: _Mask) -> tuple[Estimate, Estimate]:
        """Return the metric on some rows and its gap to the others with their intervals."""


def _make_judge(measured: Measured, metric: str) -> _Judge:
    scores = measured.task.views.label_scores(measured.evaluation.stats)
    if metric == "accuracy" and scores is not None and scores.exclusive:
        return _HitRate(scores.scores.argmax(1) == scores.truth.argmax(1))
    return _AnyMetric(measured, metric)


class _HitRate:
    """The accuracy of rows of which each is right or wrong: bootstrap."""

    def __init__(self, hits: _Mask) -> None:
        self.hits = hits

    def measure(self, rows: _Rows) -> float:
        return float(self.hits[rows].mean())

    def estimate(self, result: float, gap: float, inside: _Mask) -> tuple[Estimate, Estimate]:
        counted = [self.hits & inside, inside, self.hits & ~inside, ~inside]
        sums = resampled_sums(np.stack(counted, axis=1).astype(np.float64))
        within, others = (sums[:, at] / np.maximum(sums[:, at + 1], 1) for at in (0, 2))
        return spread(result, within), spread(gap, within - others)


class _AnyMetric:
    """A metric that the task computes from statistics of rows: jackknife over parts of the rows."""

    def __init__(self, measured: Measured, name: str) -> None:
        self.measured, self.name = measured, name

    def measure(self, rows: _Rows) -> float:
        return self.measured.metrics_of(rows.tolist()).get(self.name, math.nan)

    def estimate(self, result: float, gap: float, inside: _Mask) -> tuple[Estimate, Estimate]:
        parts = np.arange(len(inside)) % _PARTS
        within, gaps = list[float](), list[float]()
        for part in range(_PARTS):
            kept = parts != part
            one, other = (self.measure(np.flatnonzero(kept & mask)) for mask in (inside, ~inside))
            within.append(one)
            gaps.append(one - other)
        return _jackknife(result, within), _jackknife(gap, gaps)


def _jackknife(value: float, left_out: Sequence[float]) -> Estimate:
    """Return a value and the interval that its values without each part of the rows give."""
    known = np.array([each for each in left_out if math.isfinite(each)])
    if len(known) < _PARTS:
        return Estimate(value, -math.inf, math.inf)
    half = _QUANTILE * math.sqrt((_PARTS - 1) * float(known.var()))
    return Estimate(value, value - half, value + half)
