"""Reliability of probabilities: calibration error, log loss, and the bins of a diagram.

The confidence of a row with one label is its highest probability, which should be the share of such
rows that are right. With several labels, each probability of a row counts; the confidence of an
item, such as a box, is its score.

Shapes: N rows, C labels, P items, B bins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from finetune.reports.intervals import (
    Array,
    Estimate,
    interval,
    mean_interval,
    resampled_sums,
    spread,
)
from finetune.task_parts.views import ItemScores, LabelScores

BINS = 15
_TINY = 1e-12  # below the smallest probability of a softmax in float32 that is worth a loss


class Bin(NamedTuple):
    """A bin of a reliability diagram."""

    confidence: float
    accuracy: float
    rows: int


def calibration_error(scores: LabelScores) -> Estimate:
    """Return the expected calibration error (ECE) in bins of equal mass, and its interval.

    In a bin of few rows, accuracy differs from confidence by chance alone. What chance adds to the
    difference on average is subtracted (its bias: Kumar et al. 2019, arXiv:1909.10155).
    """
    return _error_of(_bin_sums(scores))


def _error_of(sums: Array) -> Estimate:
    """Return the calibration error of sums [N, B * 4] over rows and bins."""
    # Resampling adds the variance a second time.
    resampled = _error(resampled_sums(sums), noise=2.0)
    return spread(float(_error(sums.sum(0), noise=1.0)), resampled)


def reliability_bins(scores: LabelScores) -> list[Bin]:
    """Return the bins of a reliability diagram that are not empty."""
    return _bins_of(_bin_sums(scores))


def _bins_of(sums: Array) -> list[Bin]:
    table = sums.sum(0).reshape(-1, 4)
    return [
        Bin(float(confidence / count), float(hits / count), int(count))
        for count, confidence, hits, _ in table
        if count
    ]


def log_losses(scores: LabelScores) -> Array:
    """Return the log loss of each row [N]; that of several labels is the mean over the labels."""
    chances = scores.scores.astype(np.float64)  # of what is true, as far as it counts
    chances = np.where(scores.truth, chances, 1.0 if scores.exclusive else 1.0 - chances)
    losses = -np.log(np.clip(chances, _TINY, 1.0))
    by_row: Array = losses.sum(1) if scores.exclusive else losses.mean(1)
    return by_row


def describe_reliability(scores: LabelScores) -> dict[str, Any]:
    """Return {"ece": [value, low, high], "log_loss": [...]} of a split."""
    error, loss = calibration_error(scores), mean_interval(log_losses(scores))
    return {"ece": list(error), "log_loss": list(loss)}


def describe_items(items: ItemScores) -> dict[str, Any]:
    """Return what `describe_reliability` does, of scores of items, which may be several a row."""
    return {"ece": list(item_error(items)), "log_loss": list(item_loss(items))}


def item_error(items: ItemScores) -> Estimate:
    """Return the calibration error of scores of items, as `calibration_error` does."""
    return _error_of(_item_sums(items))


def item_loss(items: ItemScores, other: ItemScores | None = None) -> Estimate:
    """Return the mean log loss of an item, or by how much it exceeds that of other scores."""
    losses = _item_losses(items) - (_item_losses(other) if other is not None else 0.0)
    sums = _by_row(items, np.stack([losses, np.ones(len(losses))], 1))
    return interval(sums, lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1))


def item_bins(items: ItemScores) -> list[Bin]:
    """Return the bins of a reliability diagram of items that are not empty."""
    return _bins_of(_item_sums(items))


def _item_losses(items: ItemScores) -> Array:
    values = items.scores.astype(np.float64)
    losses: Array = -np.log(np.clip(np.where(items.right, values, 1 - values), _TINY, 1.0))
    return losses


def _by_row(items: ItemScores, values: Array) -> Array:
    """Return the sums [N, K] by row of values of items [P, K]."""
    count = len(items.objects)
    return np.stack([np.bincount(items.rows, each, minlength=count) for each in values.T], 1)


def _item_sums(items: ItemScores) -> Array:
    """Return the sums of `_pair_sums`, a pair for each item."""
    values = items.scores.astype(np.float64)
    return _pair_sums(values, items.right, items.rows, len(items.objects))


def _bin_sums(scores: LabelScores) -> Array:
    """Return the sums of `_pair_sums`, of the best label of a row or of each of several."""
    values, truth = scores.scores.astype(np.float64), scores.truth
    if scores.exclusive:
        best = values.argmax(1)[:, None]
        values, truth = (np.take_along_axis(each, best, 1) for each in (values, truth))
    count, pairs = values.shape
    return _pair_sums(values.ravel(), truth.ravel(), np.repeat(np.arange(count), pairs), count)


def _pair_sums(values: Array, truth: Array, rows: Array, count: int) -> Array:
    """Return, by row and bin, the count, confidences, hits and variances of its pairs [N, B * 4].

    A pair is a confidence and whether it was right; values, truth and rows have one for each pair.
    """
    bins = min(BINS, values.size)
    places = np.empty(values.size, np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(values.size) * bins // max(values.size, 1)
    cells = rows * bins + places
    columns = [np.ones_like(values), values, truth, values * (1 - values)]
    sums = [
        np.bincount(cells, column.astype(np.float64), minlength=count * bins) for column in columns
    ]
    return np.stack(sums, 1).reshape(count, bins * 4)


def _error(sums: Array, noise: float) -> Array:
    """Return the calibration error of sums [..., B * 4], without the bias of chance.

    `noise` is by how much the variance of a bin exceeds that of one sample of rows.
    """
    table = sums.reshape(*sums.shape[:-1], -1, 4)
    count, confidence, hits, variance = np.moveaxis(table, -1, 0)
    size = np.maximum(count, 1)
    gap, deviation = np.abs(hits - confidence) / size, np.sqrt(noise * variance) / size
    true_gap = np.sqrt(np.maximum(gap**2 - deviation**2, 0))
    bias = _folded_mean(true_gap, np.maximum(deviation, _TINY)) - true_gap
    total: Array = (count * (gap - bias)).sum(-1) / np.maximum(count.sum(-1), 1)
    return np.maximum(total, 0.0)


def _folded_mean(mean: Array, deviation: Array) -> Array:
    """Return the mean of the absolute value of a normal variable."""
    ratio = mean / deviation
    spread_part = deviation * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
    folded: Array = spread_part + mean * (1 - 2 * ndtr(-ratio))
    return folded
