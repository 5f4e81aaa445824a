"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599) of probabilities [N, C].

The logits of labels of which a row has one are multiplied by one factor, 1 / temperature; those of
independent labels by a factor each. Accuracy does not change: a factor is positive. Scores of items
such as boxes have a slope and an offset (Platt 1999), which keep their order.

Shapes: N rows, C labels, P items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, log_expit, logit, logsumexp, softmax

from finetune.reports.intervals import Array
from finetune.task_parts.views import ItemScores, LabelScores

FOLDS = 5
LARGEST = 20.0
"""Factors are between 1 / LARGEST and LARGEST."""
FEWEST_OF_A_LABEL = 20
"""Rows with a label, and rows without it, from which it has a factor of its own."""
_MOST_VALUES = 4_000_000  # more do not make one number more exact


def fit_factors(scores: LabelScores) -> Array:
    """Return the factors [C] of the lowest log loss on these rows.

    One more row counts that has each label alike: without it, the factor would grow without bound
    where all rows are right.
    """
    logits, truth = _logits(scores), scores.truth
    if scores.exclusive or not len(logits):
        step = max(1, logits.size // _MOST_VALUES)
        return np.full(logits.shape[1], _fit(logits[::step], truth[::step], exclusive=True))
    shared = _fit(logits.reshape(-1, 1), truth.reshape(-1, 1), exclusive=False)
    factors = np.full(logits.shape[1], shared)
    for label in range(logits.shape[1]):
        hits = int(truth[:, label].sum())
        if min(hits, len(truth) - hits) >= FEWEST_OF_A_LABEL:
            columns = logits[:, label : label + 1], truth[:, label : label + 1]
            factors[label] = _fit(*columns, exclusive=False)
    return factors


def scale_scores(scores: LabelScores, factors: Array) -> LabelScores:
    """Return the probabilities of logits that are multiplied by factors [C]."""
    logits = _logits(scores) * factors
    scaled = softmax(logits, axis=1) if scores.exclusive else expit(logits)
    return scores._replace(scores=scaled)


def cross_fit(scores: LabelScores) -> LabelScores:
    """Return scaled probabilities in which no row took part in the fit of its own factors."""
    folds, scaled = row_folds(len(scores.scores)), np.empty(scores.scores.shape)
    for fold in range(FOLDS):
        factors = fit_factors(scores.take(folds != fold))
        scaled[folds == fold] = scale_scores(scores.take(folds == fold), factors).scores
    return scores._replace(scores=scaled)


def fit_scale(items: ItemScores) -> list[float]:
    """Return the slope, above 0, and the offset of the lowest log loss on these items."""
    logits, right = _binary_logits(items.scores), items.right.astype(np.float64)
    # One more item, half right, keeps the fit finite where scores separate right from wrong.
    logits, right = np.append(logits, logits.mean()), np.append(right, 0.5)

    def loss(values: Array) -> tuple[float, Array]:
        slope = np.exp(values[0])
        scaled = slope * logits + values[1]
        excess = expit(scaled) - right
        total = -(right * log_expit(scaled) + (1 - right) * log_expit(-scaled)).sum()
        return float(total), np.array([(excess * logits).sum() * slope, excess.sum()])

    bounds = [(-np.log(LARGEST), np.log(LARGEST)), (-50.0, 50.0)]
    from scipy.optimize import minimize  # half a second that few runs need

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return [float(np.exp(found.x[0])), float(found.x[1])]


def scale_items(scores: Array, scale: Sequence[float] | None) -> Array:
    """Return scores with scaled logits, float64; without a scale, the scores themselves."""
    if scale is None:
        return scores.astype(np.float64)
    scaled: Array = expit(scale[0] * _binary_logits(scores) + scale[1])
    return scaled


def unscale_item(score: float, scale: Sequence[float] | None) -> float:
    """Return the score that `scale_items` turns into this one."""
    if scale is None or not 0 < score < 1:
        return score
    return float(expit((logit(score) - scale[1]) / scale[0]))


def cross_fit_items(items: ItemScores) -> ItemScores:
    """Return scaled scores in which no row took part in the fit of its own scale."""
    folds, scaled = row_folds(len(items.objects)), np.empty(len(items.scores))
    for fold in range(FOLDS):
        scale, own = fit_scale(items.take(folds != fold)), folds[items.rows] == fold
        scaled[own] = scale_items(items.scores[own], scale)
    return items._replace(scores=scaled)


def row_folds(count: int) -> Array:
    """Return the fold of each of `count` rows, the same on each call."""
    folds: Array = np.random.default_rng(0).permutation(count) % FOLDS
    return folds


def _logits(scores: LabelScores) -> Array:
    """Return logits of probabilities; those of a softmax are without their common shift."""
    if scores.exclusive:
        return np.log(np.clip(scores.scores.astype(np.float64), 1e-37, 1.0))
    return _binary_logits(scores.scores)


def _binary_logits(scores: Array) -> Array:
    values = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)  # what float32 tells from 0 and 1
    return np.log(values) - np.log1p(-values)


def _fit(logits: Array, truth: Array, *, exclusive: bool) -> float:
    def loss(log_factor: float) -> float:
        scaled = logits * np.exp(log_factor)
        if exclusive:
            losses = logsumexp(scaled, axis=1, keepdims=True) - scaled  # [N, C]
        else:
            losses = -np.stack([log_expit(scaled), log_expit(-scaled)])  # [2, N, 1]
            return float(np.where(truth, *losses).sum() + losses.mean())
        return float(losses[truth].sum() + losses.mean())

    bound = np.log(LARGEST)
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
