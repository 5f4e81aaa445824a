"""Bootstrap intervals of a task's metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finetune.reports.intervals import metric_intervals
from finetune.task_parts.samples import Stats
from finetune.task_parts.views import Views


class Means:
    """The part of a task that is asked: a mean, and a metric that is undefined."""

    def summarize(self, stats: Stats) -> dict[str, float]:
        return {"mean": float(stats["value"].mean()), "undefined": float("nan")}

    views = Views()


TASK: Any = Means()


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(20):
        values = torch.from_numpy(rng.normal(3.0, 2.0, 80))
        found = metric_intervals(TASK, {"value": values})
        assert list(found) == ["mean"]  # what is undefined has no interval
        hits += found["mean"].low <= 3.0 <= found["mean"].high
    assert 16 <= hits <= 20


def test_intervals_are_the_same_on_each_call() -> None:
    stats = {"value": torch.arange(50.0)}
    assert metric_intervals(TASK, stats) == metric_intervals(TASK, stats)
    assert metric_intervals(TASK, {"value": torch.zeros(0)}) == {}
