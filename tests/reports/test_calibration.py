"""Calibration: the fit of temperatures, its measurement, and when a model is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from finetune.reports.calibration import choose_calibration
from finetune.reports.reliability import calibration_error, log_losses, reliability_bins
from finetune.reports.temperature import fit_factors, scale_scores
from finetune.task_parts.views import LabelScores


def rows(count: int, overconfidence: float, seed: int = 0) -> LabelScores:
    """Rows of 4 labels, whose logits are too large by a factor."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, 4))
    chances = softmax(logits, 1)
    labels = (chances.cumsum(1) > rng.random((count, 1))).argmax(1)
    scores = softmax(overconfidence * logits, 1).astype(np.float32)
    return LabelScores("abcd", scores, labels[:, None] == np.arange(4), True)


def independent(count: int, factors: list[float]) -> LabelScores:
    """Rows of labels that are independent of each other, whose logits are too large by factors."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(count, len(factors)))
    truth = rng.random(logits.shape) < expit(logits)
    return LabelScores("abcd"[: len(factors)], expit(logits * factors), truth, False)


@pytest.mark.parametrize("overconfidence", [0.4, 1.0, 2.5])
def test_fit_factors_undoes_overconfidence(overconfidence: float) -> None:
    factors = fit_factors(rows(4000, overconfidence))
    assert factors * overconfidence == pytest.approx(np.ones(4), rel=0.1)


def test_fit_factors_gives_independent_labels_their_own_factors() -> None:
    factors = fit_factors(independent(4000, [0.5, 1.0, 3.0]))
    assert factors * [0.5, 1.0, 3.0] == pytest.approx(np.ones(3), rel=0.1)


def test_fit_factors_shares_a_factor_among_rare_labels() -> None:
    scores = independent(400, [2.0, 2.0, 2.0])
    scores.truth[5:, 2] = False
    factors = fit_factors(scores)
    shared = fit_factors(scores._replace(truth=scores.truth[:10], scores=scores.scores[:10]))
    assert len(set(shared)) == 1
    assert len(set(factors)) == 3


def test_fit_factors_stays_finite_where_all_rows_are_right() -> None:
    scores = LabelScores("ab", np.tile([[0.98, 0.02]], (300, 1)), np.tile([[True, False]], (300, 1)), True)  # fmt: skip
    factors = fit_factors(scores)
    assert 1 < factors[0] < 3
    assert scale_scores(scores, factors).scores.max() < 1


def test_calibration_error_of_a_calibrated_model_is_near_zero() -> None:
    errors = [calibration_error(rows(400, 1.0, seed)) for seed in range(10)]
    assert np.mean([error.value for error in errors]) < 0.015
    assert sum(error.low < 0.01 for error in errors) >= 9


def test_calibration_error_agrees_with_its_definition_on_many_rows() -> None:
    scores = rows(200_000, 2.0)
    best = scores.scores.max(1)
    right = scores.truth[np.arange(len(best)), scores.scores.argmax(1)]
    order = np.array_split(np.argsort(best, kind="stable"), 15)
    expected = sum(len(b) * abs(best[b].mean() - right[b].mean()) for b in order) / len(best)
    error = calibration_error(scores)
    assert error.value == pytest.approx(expected, abs=1e-3)
    assert error.low <= error.value <= error.high
    assert sum(each.rows for each in reliability_bins(scores)) == len(best)


def test_log_losses_are_those_of_both_kinds_of_labels() -> None:
    one, several = rows(50, 1.0), independent(50, [1.0, 2.0])
    assert log_losses(one) == pytest.approx(-np.log(one.scores[one.truth]))
    wrong = np.where(several.truth, several.scores, 1 - several.scores)
    assert log_losses(several) == pytest.approx(-np.log(wrong).mean(1))


def test_choose_calibration_lowers_the_errors_of_other_rows() -> None:
    calibration = choose_calibration(rows(400, 2.5), None, split="validation", selected=True)
    assert calibration.factors is not None
    assert "also selected the checkpoint" in calibration.note
    calibration.measure(
        "test", scale_scores(rows(4000, 2.5, seed=1), np.array(calibration.factors))
    )
    before, after = (calibration.measured["test"][time] for time in ("before", "after"))
    assert after["ece"][0] < 0.05 < before["ece"][0]
    assert after["log_loss"][0] < before["log_loss"][0]


def test_choose_calibration_leaves_a_calibrated_or_small_split() -> None:
    calibrated = choose_calibration(rows(3000, 1.0), None, split="validation", selected=False)
    small = choose_calibration(rows(99, 3.0), None, split="validation", selected=False)
    asked = choose_calibration(rows(99, 3.0), "temperature", split="validation", selected=False)
    refused = choose_calibration(rows(400, 3.0), "none", split="validation", selected=False)
    assert calibrated.factors is None or calibrated.factors[0] == pytest.approx(1, abs=0.05)
    assert small.factors is None
    assert "fewer than 100" in small.note
    assert asked.factors is not None
    assert refused.factors is None
