"""Scores of items, such as boxes: their scale, its measurement, and the threshold of the best F1."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from finetune.reports.calibration import choose_scale
from finetune.reports.decisions import learn_score_threshold
from finetune.reports.label_thresholds import fit_item_threshold
from finetune.reports.reliability import item_error, item_loss
from finetune.reports.temperature import (
    LARGEST,
    cross_fit_items,
    fit_scale,
    scale_items,
    unscale_item,
)
from finetune.task_parts.views import ItemScores

SCALE = [0.4, 1.5]  # of the true probability's logit, to the logit of the score


def items(rows: int = 200, seed: int = 0, each: int = 20) -> ItemScores:
    """Rows with as many items each, whose scores are scaled away from their true probability."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2, rows * each)
    right = rng.random(len(logits)) < expit(logits)
    places = np.repeat(np.arange(rows), each)
    objects = np.bincount(places[right], minlength=rows) + 1
    scores = expit(SCALE[0] * logits + SCALE[1]).astype(np.float32)
    return ItemScores(scores, right, places, objects, 0.3)


def test_fit_scale_finds_slope_and_offset() -> None:
    slope, offset = fit_scale(items(1000))
    assert slope == pytest.approx(1 / SCALE[0], rel=0.05)
    assert offset == pytest.approx(-SCALE[1] / SCALE[0], rel=0.05)


def test_scaled_scores_keep_their_order_and_can_be_scaled_back() -> None:
    scores, scale = np.linspace(0.01, 0.99, 500, dtype=np.float32), [4.3, -0.85]
    scaled = scale_items(scores, scale)
    assert (np.diff(scaled) > 0).all()
    assert unscale_item(float(scaled[123]), scale) == pytest.approx(float(scores[123]), rel=1e-6)
    assert unscale_item(0.0, scale) == 0.0
    assert unscale_item(0.3, None) == 0.3


def test_fit_scale_stays_finite_where_scores_part_right_from_wrong() -> None:
    scores = np.array([0.9] * 20 + [0.2] * 20, dtype=np.float32)
    places = np.arange(40) % 10
    parted = ItemScores(scores, scores > 0.5, places, np.full(10, 2), 0.3)
    slope, offset = fit_scale(parted)
    assert 1 < slope < LARGEST
    assert np.isfinite(offset)
    assert 0.5 < scale_items(scores, [slope, offset]).max() < 1


def test_choose_scale_lowers_the_calibration_error_of_other_rows() -> None:
    found, other = choose_scale(items(), None, split="validation", selected=False), items(seed=1)
    assert found.scale is not None
    assert "validation, cross-fitted" in found.measured
    found.measure_items("test", other)
    before, after = (found.measured["test"][time]["ece"] for time in ("before", "after"))
    assert before[1] > 0.2
    assert after[0] < 0.02
    assert found.measured["test"]["after"]["log_loss"][2] < item_loss(other).low
    assert found.facts()["scale"] == found.scale


@pytest.mark.parametrize(
    ("some", "wish", "note"),
    [
        (items(3, each=8), None, "fewer than 100 of a kind; calibrate=temperature does it"),
        (items(), "none", "as asked"),
        (items()._replace(right=np.zeros(4000, bool)), "temperature", "needs right and wrong"),
    ],
)
def test_choose_scale_leaves_scores_as_they_are(
    some: ItemScores, wish: str | None, note: str
) -> None:
    found = choose_scale(some, wish, split="validation", selected=False)  # type: ignore[arg-type]
    assert found.scale is None
    assert note in found.note


def test_choose_scale_of_calibrated_scores_is_not_needed() -> None:
    good = cross_fit_items(items(400))
    found = choose_scale(good, None, split="v", selected=False)
    assert found.scale is None
    assert found.note.startswith("not needed: scores scaled by")
    assert item_error(good).value < 0.01


def test_fit_item_threshold_is_that_of_the_best_f1() -> None:
    some = items(20)
    threshold = fit_item_threshold(some)
    assert threshold is not None

    def f1(least: float) -> float:
        chosen = some.scores >= least
        return 2 * (chosen & some.right).sum() / (chosen.sum() + some.objects.sum())

    assert f1(threshold) == max(map(f1, some.scores.tolist()))
    assert fit_item_threshold(some._replace(right=np.zeros_like(some.right))) is None


def test_learn_score_threshold_keeps_one_that_gains_on_other_rows() -> None:
    some = items()._replace(threshold=0.01)
    learned = learn_score_threshold(some, None, split="validation")
    assert learned.score_threshold is not None
    assert "in F1" in learned.note
    assert learned.state() == {"score_threshold": learned.score_threshold}
    usual = some._replace(threshold=learned.score_threshold)
    assert learn_score_threshold(usual, None, split="validation").score_threshold is None
    few = learn_score_threshold(items(3), None, split="validation")
    assert "fewer than" in few.note
