"""Disparities between groups of people: rates at which labels are given, and given rightly.

The selection rate of a label is the share of rows that it is predicted for; the true positive rate
that of the rows that have it, the false positive rate that of the others (fairlearn).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.inference.evaluate import Measured
from finetune.task_parts.views import LabelScores

FEWEST_ROWS = 20
"""Rows of a group that a rate is measured on."""
NO_LABELS = "report.groups: this task predicts no labels; leave it out"
_DECISION = 0.5  # probability from which one of several labels is given
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Disparity:
    """A rate of a label by the groups of a column.

    Attributes:
        rates: {group: rate}, of groups with enough rows.
        too_small: {group: rows} of the others: rows that have the label for true positives, that
            lack it for false ones.
    """

    column: str
    label: str
    rate: str
    rates: dict[str, float]
    too_small: dict[str, int]

    @property
    def difference(self) -> float:
        """The largest difference between two groups; 0 if fewer than two are measured."""
        return max(self.rates.values()) - min(self.rates.values()) if self.rates else 0.0

    def facts(self) -> dict[str, Any]:
        """Return what results.json holds."""
        return {
            "column": self.column,
            "label": self.label,
            "rate": self.rate,
            "rates": self.rates,
            "difference": self.difference,
            "too_small": self.too_small,
        }


def measure_disparities(measured: Measured, columns: Sequence[str]) -> list[Disparity]:
    """Measure the rates of all labels by the groups of each column, the largest difference first.

    Raises ConfigError for a task without labels.
    """
    scores = measured.task.views.label_scores(measured.evaluation.stats)
    if scores is None:
        raise ConfigError(NO_LABELS)
    found = list[Disparity]()
    for column in columns:
        groups = np.array(measured.cells(column), dtype=object)
        found += _of_column(column, groups, scores)
    return sorted(found, key=lambda each: -each.difference)


def _of_column(column: str, groups: NDArray[Any], scores: LabelScores) -> list[Disparity]:
    from fairlearn import metrics

    decisions, names = _decisions(scores), sorted(set(groups))
    everyone = np.ones(len(groups), dtype=bool)
    found = []
    for index, label in enumerate(scores.names):
        truth, given = scores.truth[:, index], decisions[:, index]
        for name, rate, among in (
            ("selection rate", metrics.selection_rate, everyone),
            ("true positive rate", metrics.true_positive_rate, truth),
            ("false positive rate", metrics.false_positive_rate, ~truth),
        ):
            sizes = {group: int((among & (groups == group)).sum()) for group in names}
            kept = np.isin(groups, [group for group, size in sizes.items() if size >= FEWEST_ROWS])
            too_small = {group: size for group, size in sizes.items() if size < FEWEST_ROWS}
            rates = dict[str, float]()
            if kept.any():
                frame = metrics.MetricFrame(
                    metrics=lambda y_true, y_pred, rate=rate: rate(y_true, y_pred, pos_label=1),
                    y_true=truth[kept].astype(int),
                    y_pred=given[kept].astype(int),
                    sensitive_features=groups[kept],
                )
                rates = {str(group): float(value) for group, value in frame.by_group.items()}
            found.append(Disparity(column, label, name, rates, too_small))
    return found


def _decisions(scores: LabelScores) -> _Mask:
    """Return the labels that are given to each row, [N, C]."""
    if not scores.exclusive:
        return np.asarray(scores.scores >= _DECISION)
    likely: _Mask = np.arange(scores.scores.shape[1]) == scores.scores.argmax(1)[:, None]
    return likely
