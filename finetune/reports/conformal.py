"""Prediction sets that contain the true label of a row with a chosen probability.

Split conformal prediction (Vovk et al. 2005; Sadinle et al. 2019, arXiv:1609.00451): a label is in
the set if the model finds it no stranger than it found the true labels of most held-out rows. This
holds for any model, as long as the rows to predict are drawn like the held-out ones.

Shapes: N held-out rows, R rows to predict, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.reports.intervals import Array, Estimate, mean_interval
from finetune.task_parts.views import LabelScores

MOST_ROWS = 10_000  # more do not make a quantile more exact
_DIGITS = 1e6


class Nonconformity(NamedTuple):
    """How strange the true labels of held-out rows were to a model, and which they were.

    Attributes:
        scores: 1 - the probability of the true label, [N].
        labels: index of the true label, int [N].
    """

    scores: Array
    labels: Array

    def state(self) -> dict[str, Any]:
        """Return it as numbers for a JSON file, rounded up: to larger sets."""
        rounded = np.ceil(self.scores * _DIGITS) / _DIGITS
        return {"scores": rounded.tolist(), "labels": self.labels.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Nonconformity:
        return cls(np.array(state["scores"], dtype=float), np.array(state["labels"], dtype=int))


class SetFacts(NamedTuple):
    """Prediction sets of labeled rows: their coverage and their sizes."""

    coverage: Estimate
    size: Estimate
    single: float
    """Share of rows with exactly one label in the set: the others are for a person."""


def nonconformity(scores: LabelScores) -> Nonconformity:
    """Score the true labels of held-out rows with one label each."""
    rows = np.arange(len(scores.scores))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ROWS])
    labels = scores.truth[rows].argmax(1)
    return Nonconformity(1 - scores.scores[rows, labels].astype(np.float64), labels)


def set_limits(known: Nonconformity, coverage: float, classes: int, *, by_class: bool) -> Array:
    """Return the largest score of a label that is in the set, [C].

    With `by_class`, the rows of every label are covered with that probability, not only all rows
    together. The limit is infinite, so that the label is in every set, where there are too few
    held-out rows to tell: 9 are needed for a coverage of 0.9, with `by_class` 9 of each label.
    """
    if not by_class:
        return np.full(classes, _quantile(known.scores, coverage))
    return np.array(
        [_quantile(known.scores[known.labels == label], coverage) for label in range(classes)]
    )


def find_sets(probabilities: Array, limits: Array) -> Array:
    """Return which labels are in the set of each row, bool [R, C]; a set may be empty."""
    return np.asarray(1 - probabilities.astype(np.float64) <= limits)


def measure_sets(sets: Array, truth: Array) -> SetFacts:
    """Measure the sets [R, C] of rows with the true labels `truth`, bool [R, C]."""
    sizes = sets.sum(1)
    return SetFacts(
        mean_interval(np.asarray((sets & truth).any(1))),
        mean_interval(sizes),
        float((sizes == 1).mean()),
    )


def coverage_by_label(sets: Array, truth: Array, names: Sequence[str]) -> dict[str, float]:
    """Return the coverage of the rows of each label that occurs."""
    return {
        name: float(sets[truth[:, label], label].mean())
        for label, name in enumerate(names)
        if truth[:, label].any()
    }


def _quantile(scores: Array, coverage: float) -> float:
    # The row to predict counts as one more; without it, coverage would be too low.
    place = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf
