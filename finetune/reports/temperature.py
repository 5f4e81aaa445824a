"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599) of probabilities [N, C].

The logits of labels of which a row has one are multiplied by one factor, 1 / temperature; those of
independent labels by a factor each. Accuracy does not change: a factor is positive.

Shapes: N rows, C labels.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logsumexp, softmax

from finetune.reports.intervals import Array
from finetune.task_parts.views import LabelScores

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
    folds = np.random.default_rng(0).permutation(len(scores.scores)) % FOLDS
    scaled = np.empty(scores.scores.shape)
    for fold in range(FOLDS):
        factors = fit_factors(scores.take(folds != fold))
        scaled[folds == fold] = scale_scores(scores.take(folds == fold), factors).scores
    return scores._replace(scores=scaled)


def _logits(scores: LabelScores) -> Array:
    """Return logits of probabilities; those of a softmax are without their common shift."""
    values = scores.scores.astype(np.float64)
    if scores.exclusive:
        return np.log(np.clip(values, 1e-37, 1.0))
    values = np.clip(values, 1e-7, 1 - 1e-7)  # what float32 tells from 0 and 1
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
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
