"""Groups of rows, by their label and the value of a column, and the metrics of the worst group.

A model that learned a spurious cue, such as the background of an image, is right on most rows and
wrong on the group in which the cue points to another label.

Shapes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from finetune.config.best_metric import WORST_GROUP, Direction
from finetune.errors import DataError, format_count, nearest
from finetune.task import Task
from finetune.task_parts.samples import Stats

FEWEST_ROWS = 10
"""Rows from which the metric of a group counts: that of a smaller one is mostly chance."""


class RowGroups(NamedTuple):
    """The group of each row of a split.

    Attributes:
        names: of the groups, sorted.
        ids: index of the group of each row, int64 [N].
    """

    names: list[str]
    ids: np.ndarray

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each group."""
        counts = np.bincount(self.ids, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def too_small(self, split: str) -> str:
        """Return a note on groups that the worst-group metrics leave out; "" if there are none."""
        small = [name for name, count in self.sizes.items() if count < FEWEST_ROWS]
        if not small:
            return ""
        return (
            f"{split}: {format_count(len(small), 'group')} of fewer than {FEWEST_ROWS} rows left "
            f"out of the worst group: {', '.join(small)}"
        )


def check_group_column(column: str | None, names: Collection[str]) -> None:
    """Raise DataError if the columns `names` of a split lack that of train.group_by."""
    if column is not None and column not in names:
        raise DataError(
            f"train.group_by={column}: no such column; {nearest(column, names)}; all splits need it"
        )


def find_groups(rows: Any, task: Task, column: str) -> RowGroups:
    """Group rows by their labels and the value of a column, as "label / value".

    Raises DataError if the column is missing.
    """
    task_rows, names = task.rows, list[str]()
    for row in rows:
        check_group_column(column, row)
        names.append(" / ".join([*task_rows.labels(row), str(row[column])]))
    known = sorted(set(names))
    place = {name: index for index, name in enumerate(known)}
    return RowGroups(known, np.array([place[name] for name in names], dtype=np.int64))


def group_metrics(
    stats: Stats, groups: RowGroups, task: Task, metrics: Collection[str]
) -> dict[str, dict[str, float]]:
    """Return {group: {"rows": their number, metric: value}} for some metrics of the task."""
    found = {}
    for group, name in enumerate(groups.names):
        chosen = torch.from_numpy(np.flatnonzero(groups.ids == group))
        values = task.summarize({key: tensor[chosen] for key, tensor in stats.items()})
        known = {metric: values[metric] for metric in metrics if metric in values}
        found[name] = {"rows": float(len(chosen)), **known}
    return found


def worst_group_metrics(
    by_group: Mapping[str, Mapping[str, float]], directions: Mapping[str, Direction]
) -> dict[str, float]:
    """Return the value of each metric in the group where it is worst, as "worst_group_<metric>"."""
    worst = {}
    for metric, direction in directions.items():
        values = [
            each[metric]
            for each in by_group.values()
            if each["rows"] >= FEWEST_ROWS and math.isfinite(each.get(metric, math.nan))
        ]
        if values:
            worst[WORST_GROUP + metric] = min(values) if direction == "max" else max(values)
    return worst


def describe_groups(groups: RowGroups, most: int = 12) -> str:
    """Return a note on the sizes of the groups, the smallest first."""
    sizes = sorted(groups.sizes.items(), key=lambda item: item[1])
    listed: Sequence[str] = [f"{name}: {count}" for name, count in sizes[:most]]
    more = f" and {len(sizes) - most} more" if len(sizes) > most else ""
    return f"groups: {len(sizes)} in train, by label and column; rows {', '.join(listed)}{more}"
