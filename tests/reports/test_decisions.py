"""Thresholds of several labels and conformal prediction sets."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from finetune.reports.conformal import (
    Nonconformity,
    coverage_by_label,
    find_sets,
    nonconformity,
    set_limits,
)
from finetune.reports.decisions import learn_decisions
from finetune.reports.label_thresholds import METRICS, fit_thresholds
from finetune.task_parts.views import LabelScores

LABELS = "abcd"


def one_label(count: int, seed: int) -> LabelScores:
    rng = np.random.default_rng(seed)
    chances = softmax(2 * rng.normal(size=(count, 4)), 1)
    labels = (chances.cumsum(1) > rng.random((count, 1))).argmax(1)
    return LabelScores(LABELS, chances, labels[:, None] == np.arange(4), True)


def several(count: int, labels: int, seed: int = 0, *, shift: float = -2.0) -> LabelScores:
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(count, labels)) + shift
    return LabelScores(LABELS, expit(logits), rng.random(logits.shape) < expit(logits), False)


def metric_of(scores: LabelScores, thresholds: Any, metric: str) -> float:
    """A metric by its definition."""
    chosen, truth = scores.scores >= np.asarray(thresholds), scores.truth
    if metric == "subset_accuracy":
        return float((chosen == truth).all(1).mean())
    axis = None if metric == "f1_micro" else 0
    hits, both = (chosen & truth).sum(axis), chosen.sum(axis) + truth.sum(axis)
    return float(np.mean(2 * hits / np.maximum(both, 1)))


@pytest.mark.parametrize("metric", METRICS)
def test_fit_thresholds_finds_what_a_search_of_all_pairs_finds(metric: str) -> None:
    scores = several(60, 2, shift=-0.5)
    best = max(
        metric_of(scores, pair, metric) for pair in product(np.unique(scores.scores), repeat=2)
    )
    found = metric_of(scores, fit_thresholds(scores, metric), metric)
    assert found >= metric_of(scores, 0.5, metric)
    assert found == pytest.approx(best, abs=0.02)  # a local optimum


def test_fit_thresholds_shares_a_threshold_among_rare_labels() -> None:
    scores = several(300, 4)
    scores.truth[10:, 1:3] = False
    thresholds = fit_thresholds(scores, "f1_macro")
    assert thresholds[1] == thresholds[2]
    assert len(set(thresholds)) == 3


def test_learn_decisions_keeps_thresholds_that_gain_on_other_rows() -> None:
    decisions = learn_decisions(
        several(600, 3), "f1_micro", split="validation", with_thresholds=True
    )
    assert decisions is not None
    assert decisions.thresholds is not None
    assert "outside their fit" in decisions.note
    other = several(2000, 3, seed=1)
    learned = metric_of(other, decisions.thresholds, "f1_micro")
    assert learned > metric_of(other, 0.5, "f1_micro") + 0.05


@pytest.mark.parametrize(("rows", "words"), [(9, "fewer than 10"), (600, "learned ones give")])
def test_learn_decisions_leaves_thresholds_that_gain_nothing(rows: int, words: str) -> None:
    scores = several(rows, 3)
    perfect = scores._replace(scores=np.where(scores.truth, 0.9, 0.1))
    decisions = learn_decisions(perfect, "f1_micro", split="validation", with_thresholds=True)
    assert decisions is not None
    assert decisions.thresholds is None
    assert words in decisions.note


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_prediction_sets_have_the_coverage_on_average(coverage: float, by_class: bool) -> None:
    covered = []
    for seed in range(60):
        known = nonconformity(one_label(199, seed))
        other = one_label(500, 1000 + seed)
        sets = find_sets(other.scores, set_limits(known, coverage, 4, by_class=by_class))
        values = coverage_by_label(sets, other.truth, LABELS).values()
        covered.append([(sets & other.truth).any(1).mean(), *values])
    means = np.mean(covered, axis=0)
    assert means[0] >= coverage - 0.01
    if by_class:
        assert means[1:].min() >= coverage - 0.015
    else:
        assert means[0] <= coverage + 0.015


def test_prediction_sets_hold_every_label_where_rows_are_too_few() -> None:
    known = nonconformity(one_label(8, 0))
    assert find_sets(one_label(5, 1).scores, set_limits(known, 0.9, 4, by_class=False)).all()
    one_more = nonconformity(one_label(9, 0))
    assert np.isfinite(set_limits(one_more, 0.9, 4, by_class=False)).all()


def test_nonconformity_survives_its_file_with_sets_at_least_as_large() -> None:
    known, rows = nonconformity(one_label(200, 0)), one_label(1000, 1).scores
    again = Nonconformity.from_state(known.state())
    before, after = (
        find_sets(rows, set_limits(each, 0.9, 4, by_class=True)) for each in (known, again)
    )
    assert (before <= after).all()
    assert after.mean() == pytest.approx(before.mean(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.95])
def test_prediction_sets_are_those_of_mapie(coverage: float) -> None:
    classification = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose inputs are its probabilities."""

        def fit(self, rows: Any, labels: Any) -> Given:
            self.classes_, self.is_fitted_ = np.arange(4), True
            return self

        def predict_proba(self, rows: Any) -> Any:
            return rows

        def predict(self, rows: Any) -> Any:
            return rows.argmax(1)

    held_out, rows = one_label(200, 0), one_label(4000, 1)
    labels = held_out.truth.argmax(1)
    oracle = classification.SplitConformalClassifier(
        Given().fit(held_out.scores, labels),
        confidence_level=coverage,
        conformity_score="lac",
        prefit=True,
    ).conformalize(held_out.scores, labels)
    expected = oracle.predict_set(rows.scores)[1][:, :, 0]
    limits = set_limits(nonconformity(held_out), coverage, 4, by_class=False)
    assert (find_sets(rows.scores, limits) == expected).all()
