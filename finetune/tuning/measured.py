"""What the final model of a trial measures on the validation split: its score, and each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from finetune.config.best_metric import Direction, selected_metric
from finetune.errors import CheckpointError
from finetune.inference.evaluation_loop import Evaluation
from finetune.io.files import atomic
from finetune.reporting.console import format_value
from finetune.task_parts.samples import Stats
from finetune.training.state import Live

REPLICATES = 200
Summary = Callable[[Stats], Mapping[str, float]]


class RankedBy(NamedTuple):
    """The metric that ranks the trials. Scores are larger for better trials."""

    name: str
    direction: Direction

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the score of some metrics; NaN if they lack this one."""
        value = metrics.get(self.name, math.nan)
        return value if self.direction == "max" else -value

    def value(self, score: float) -> float:
        return score if self.direction == "max" else -score

    def describe(self, score: float) -> str:
        return f"{self.name} {format_value(self.value(score))}"


def ranked_by(live: Live) -> RankedBy:
    """Return the metric that selects the checkpoint of a run; the task's if the last one is."""
    task, best = live.task, live.config.train.best
    selected = selected_metric(best, task.metric, task.views.metric_names())
    return RankedBy(*(selected or task.metric))


class Gain(NamedTuple):
    """How much better one trial scores than another, with a 95 % interval.

    NaN if the metric cannot be computed from statistics of single rows.
    """

    value: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "unknown, since it is not computed from single rows"
        interval = f"95 % interval {self.low:+.4f} to {self.high:+.4f}"
        return f"{self.value:+.4f} ({interval}, bootstrap over {self.rows} validation rows)"


def save_measured(path: Path, live: Live, evaluation: Evaluation) -> None:
    """Save the score of a trial, and the statistics of each validation row, [N, ...]."""
    metric = ranked_by(live)
    score = metric.score(evaluation.metrics)
    facts = {"metric": metric.name, "direction": metric.direction, "score": repr(score)}
    tensors = {key: value.contiguous() for key, value in evaluation.stats.items()}
    with atomic(path) as partial:
        save_file(tensors, partial, metadata=facts)


def read_measured(path: Path) -> tuple[float, RankedBy]:
    """Return the score of a trial, and the metric that it is of. Raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        return float(facts["score"]), RankedBy(facts["metric"], facts["direction"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove the results.json of this trial and run the "
            "same command again"
        ) from error


def expected_optimism(
    paths: Sequence[Path], metric: RankedBy, summarize: Summary, seed: int = 0
) -> float:
    """Estimate by how much the best of several validation scores exceeds its score on new rows.

    The best trial on a bootstrap sample of the rows is measured on the rows outside of the sample
    (Tsamardinos et al. 2018, bootstrap bias corrected cross-validation). 0 for a single trial, NaN
    if the metric cannot be computed from the statistics.
    """
    if len(paths) < 2:
        return 0.0
    stats = [load_file(path) for path in paths]
    count = len(next(iter(stats[0].values()), ()))
    rng, gaps = np.random.default_rng(seed), []
    for _ in range(REPLICATES if count else 0):
        drawn = rng.integers(count, size=count)
        left_out = np.setdiff1d(np.arange(count), drawn)
        inside = [_score(each, drawn, metric, summarize) for each in stats]
        best = int(np.argmax(inside))
        if len(left_out):
            gaps.append(inside[best] - _score(stats[best], left_out, metric, summarize))
    finite = [gap for gap in gaps if math.isfinite(gap)]
    # Scores of bootstrap samples have twice the variance of scores of the rows themselves, so the
    # best of them is luckier.
    return max(0.0, float(np.mean(finite)) / math.sqrt(2)) if finite else math.nan


def gain_interval(
    better: Path, other: Path, metric: RankedBy, summarize: Summary, seed: int = 0
) -> Gain:
    """Measure the gain of one trial over another, by a bootstrap over the rows of both."""
    stats = load_file(better), load_file(other)
    count = len(next(iter(stats[0].values()), ()))
    rng = np.random.default_rng(seed)
    samples = [rng.integers(count, size=count) for _ in range(5 * REPLICATES if count else 0)]
    gain, *gains = (
        _score(stats[0], rows, metric, summarize) - _score(stats[1], rows, metric, summarize)
        for rows in (np.arange(count), *samples)
    )
    if not np.isfinite(gains).any():
        return Gain(math.nan, math.nan, math.nan, count)
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return Gain(gain, float(low), float(high), count)


def _score(stats: Stats, rows: np.ndarray, metric: RankedBy, summarize: Summary) -> float:
    """Score some rows, drawn with replacement or without."""
    index = torch.from_numpy(rows)
    return metric.score(summarize({name: values[index] for name, values in stats.items()}))
