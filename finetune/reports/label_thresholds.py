"""Minimum probability of each of several labels at which a metric of held-out rows is highest.

Items, such as boxes, have one minimum score, at which their F1 is highest.

Shapes: N rows, C labels, P items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from finetune.reports.intervals import Array, Estimate, interval
from finetune.reports.temperature import FOLDS, row_folds
from finetune.task_parts.views import ItemScores, LabelScores

USUAL = 0.5
METRICS = ("f1_micro", "f1_macro", "subset_accuracy")
FEWEST_OF_A_LABEL = 20
"""Rows with a label from which it has a threshold of its own; rarer labels share one."""
_SWEEPS = 10


class ThresholdGain(NamedTuple):
    """The metric on rows that took no part in the fit, and what it gained over 0.5."""

    metric: str
    value: float
    gain: Estimate


def fit_thresholds(scores: LabelScores, metric: str) -> Array:
    """Return the thresholds [C] of the highest metric on these rows, by coordinate ascent.

    A threshold lies in the middle between the probabilities of the rows that it parts.
    """
    chances, truth = scores.scores.astype(np.float64), scores.truth
    thresholds = np.full(chances.shape[1], USUAL)
    is_rare = truth.sum(0) < FEWEST_OF_A_LABEL
    for _ in range(_SWEEPS):
        before = thresholds.copy()
        for label in np.flatnonzero(~is_rare):
            thresholds[label] = _best_cut(chances, truth, thresholds, label, metric)
        if (before == thresholds).all():
            break
    if is_rare.any():
        # One column of all rare labels, in which few mistakes of one label decide little.
        pooled, hits = (values[:, is_rare].reshape(-1, 1) for values in (chances, truth))
        thresholds[is_rare] = _best_cut(pooled, hits, np.array([USUAL]), 0, "f1_micro")
    return thresholds


def cross_fit_gain(scores: LabelScores, metric: str) -> ThresholdGain:
    """Measure what thresholds would gain on rows that did not take part in their fit."""
    folds = row_folds(len(scores.scores))
    chosen = np.empty(scores.scores.shape, dtype=bool)
    for fold in range(FOLDS):
        thresholds = fit_thresholds(scores.take(folds != fold), metric)
        chosen[folds == fold] = scores.scores[folds == fold] >= thresholds
    sides = [_row_sums(each, scores.truth, metric) for each in (chosen, scores.scores >= USUAL)]
    width = sides[0].shape[1]

    def gain(sums: Array) -> Array:
        return _metric(sums[..., :width], metric) - _metric(sums[..., width:], metric)

    value = float(_metric(sides[0].sum(0), metric))
    return ThresholdGain(metric, value, interval(np.concatenate(sides, axis=1), gain))


def fit_item_threshold(items: ItemScores) -> float | None:
    """Return the minimum score with the highest F1, ties broken by the higher score.

    It is the mean of the scores of two neighbors. None if no item is right.
    """
    order = np.argsort(-items.scores, kind="stable")
    falling, hits = items.scores[order].astype(np.float64), items.right[order].cumsum()
    if not len(order) or not hits[-1]:
        return None
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + items.objects.sum())
    f1[:-1][falling[:-1] == falling[1:]] = -1.0  # no threshold separates equal scores
    best = int(f1.argmax())
    return float((falling[best] + np.append(falling, 0.0)[best + 1]) / 2)


def cross_fit_item_gain(items: ItemScores) -> ThresholdGain:
    """Measure what a learned threshold gains in rows that took no part in its fit."""
    folds, usual = row_folds(len(items.objects)), items.threshold
    chosen = np.zeros(len(items.scores), dtype=bool)
    for fold in range(FOLDS):
        threshold = fit_item_threshold(items.take(folds != fold))
        own = folds[items.rows] == fold
        chosen[own] = items.scores[own] >= (usual if threshold is None else threshold)
    sides = [_item_sums(items, each) for each in (chosen, items.scores >= usual)]

    def gain(sums: Array) -> Array:
        return _metric(sums[..., :2], "f1_micro") - _metric(sums[..., 2:], "f1_micro")

    value = float(_metric(sides[0].sum(0), "f1_micro"))
    return ThresholdGain("F1", value, interval(np.concatenate(sides, axis=1), gain))


def _item_sums(items: ItemScores, chosen: Array) -> Array:
    """Return what each row adds to the sums that F1 is computed from, float64 [N, 2]."""
    count = len(items.objects)
    hits = np.bincount(items.rows[chosen & items.right], minlength=count)
    found = np.bincount(items.rows[chosen], minlength=count)
    return np.stack([hits, found + items.objects], 1).astype(np.float64)


def _best_cut(
    chances: Array, truth: Array, thresholds: Array, label: np.intp | int, metric: str
) -> float:
    """Return the best threshold of one label, those of the others being as they are.

    Of equally good ones, it is the one nearest to 0.5.
    """
    order = np.argsort(-chances[:, label], kind="stable")
    falling, hits = chances[order, label], truth[order, label]
    found = np.concatenate([[0], hits.cumsum()])  # true positives if the first k rows are chosen
    counts = np.arange(len(order) + 1)
    others = np.arange(chances.shape[1]) != label
    chosen = chances[:, others] >= thresholds[others]
    if metric == "subset_accuracy":
        # Rows on which another label is wrong are lost whatever this one says.
        counted = (chosen == truth[:, others]).all(1)[order]
        right = np.concatenate([[0], (hits & counted).cumsum()])
        below = np.concatenate([(~hits & counted)[::-1].cumsum()[::-1], [0]])
        values = (right + below).astype(np.float64)
    else:
        both = (chosen & truth[:, others]).sum() if metric == "f1_micro" else 0
        rest = chosen.sum() + truth[:, others].sum() if metric == "f1_micro" else 0
        values = 2 * (found + both) / np.maximum(counts + hits.sum() + rest, 1)
    edges = np.concatenate([[1.0], falling, [0.0]])
    cuts = (edges[:-1] + edges[1:]) / 2
    values[(edges[:-1] == edges[1:])] = -1.0  # no threshold parts equal probabilities
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(np.clip(cuts[best[np.abs(cuts[best] - USUAL).argmin()]], 1e-6, 1 - 1e-6))


def _row_sums(chosen: Array, truth: Array, metric: str) -> Array:
    """Return what each row adds to the sums that a metric is computed from, float64 [N, K]."""
    if metric == "subset_accuracy":
        right = (chosen == truth).all(1)
        return np.stack([right, np.ones(len(right))], 1).astype(np.float64)
    hits, both = (chosen & truth).astype(np.float64), chosen.astype(np.float64) + truth
    if metric == "f1_micro":
        hits, both = hits.sum(1, keepdims=True), both.sum(1, keepdims=True)
    return np.concatenate([hits, both], axis=1)


def _metric(sums: Array, metric: str) -> Array:
    """Compute a metric from the sums [..., K] over rows."""
    half = sums.shape[-1] // 2
    first, second = sums[..., :half], sums[..., half:]
    if metric == "subset_accuracy":
        return np.asarray((first / np.maximum(second, 1))[..., 0])
    f1 = 2 * first / np.maximum(second, 1)
    return np.asarray(f1.sum(-1) / np.maximum((second > 0).sum(-1), 1))
