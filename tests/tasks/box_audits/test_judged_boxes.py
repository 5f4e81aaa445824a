"""Kinds of errors by TIDE: each one computed by hand, sums that must agree, numbers of tidecv."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.box_audits.box_outcomes import box_outcomes
from tasks.box_audits.judged_boxes import IGNORED, KINDS, judge_boxes
from tasks.box_audits.mended_precision import (
    FALSE_NEGATIVES,
    FALSE_POSITIVES,
    ap50,
    precision_gains,
    rank_boxes,
)
from tasks.box_audits.threshold_curves import threshold_curve
from tasks.detection.detection_metrics import summarize_boxes
from tests.support.judged_scenes import box_stats, random_stats

CAT, DOG = 0, 1
SQUARE = (0, 0, 100, 100)
HALF_RIGHT = (0, 0, 100, 40)  # IoU 0.4 with the square
CORNER = (95, 95, 105, 105)  # IoU 0.0025 with the square
FAR = (300, 300, 340, 340)


@pytest.mark.parametrize(
    ("label", "box", "kind", "count_missed"),
    [
        (CAT, SQUARE, "correct", 0),
        (DOG, SQUARE, "classification", 0),
        (CAT, HALF_RIGHT, "localization", 0),
        (DOG, HALF_RIGHT, "both", 1),
        (CAT, CORNER, "background", 1),
        (CAT, FAR, "background", 1),
    ],
)
def test_judge_boxes_names_the_kind_of_one_detection(
    label: int, box: tuple[int, ...], kind: str, count_missed: int
) -> None:
    judged = judge_boxes(box_stats([(box, label, 0.9)], [(SQUARE, CAT)]))
    assert judged.kinds.tolist() == [kind]
    assert judged.count()["missed"] == count_missed
    assert judged.targets.tolist() == [0 if kind in ("correct", *KINDS[:2]) else -1]


def test_judge_boxes_gives_a_true_box_to_the_highest_score() -> None:
    found = [(SQUARE, CAT, 0.6), (HALF_RIGHT, CAT, 0.7), (SQUARE, CAT, 0.8), (SQUARE, DOG, 0.1)]
    judged = judge_boxes(box_stats(found, [(SQUARE, CAT)]))
    assert judged.scores.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.1])
    assert judged.kinds.tolist() == ["correct", "localization", "duplicate", "classification"]
    assert judged.boxes.tolist() == [list(found[place][0]) for place in (2, 1, 0, 3)]
    assert judged.missed.tolist() == [False]


def test_judge_boxes_ignores_what_lies_in_a_crowd_of_its_class() -> None:
    inside = (10, 10, 30, 30)
    found = [(inside, CAT, 0.9), (inside, DOG, 0.8)]
    judged = judge_boxes(box_stats(found, [(SQUARE, CAT)], crowds=[True]))
    assert judged.kinds.tolist() == [IGNORED, "background"]
    assert len(judged.true_labels) == 0


def test_judge_boxes_knows_images_without_boxes_and_without_detections() -> None:
    judged = judge_boxes(box_stats([], [(SQUARE, CAT)]))
    assert (judged.count()["missed"], len(judged.kinds)) == (1, 0)
    judged = judge_boxes(box_stats([(SQUARE, CAT, 0.5)], []))
    assert judged.kinds.tolist() == ["background"]
    nothing = judge_boxes(box_stats([], []))
    assert nothing.count() == dict.fromkeys(KINDS, 0)
    assert set(precision_gains(nothing, 2).values()) == {0.0}


def test_box_outcomes_count_each_object_once() -> None:
    found = [(SQUARE, CAT, 0.9), (SQUARE, CAT, 0.8), (FAR, DOG, 0.7), (FAR, CAT, 0.2)]
    stats = box_stats(found, [(SQUARE, CAT), (FAR, CAT)])
    [(columns, mistake, unlisted)] = box_outcomes(stats, ["cat", "dog"], 0.3)
    counts = {"true": 2, "predicted": 3, "missed": 1, "false": 2}
    assert columns == {**counts, "kinds": ["classification", "duplicate"]}
    assert mistake == 3
    assert unlisted == {
        "errors": ["classification dog", "duplicate cat"],
        "confusions": ["cat as dog"],
    }
    [(columns, mistake, _)] = box_outcomes(stats, ["cat", "dog"], 0.1)
    assert (columns["predicted"], columns["missed"], columns["false"], mistake) == (4, 0, 2, 2)


def test_judged_boxes_add_up_at_every_threshold() -> None:
    """What must hold for any boxes; a higher threshold changes no kind."""
    for seed in range(5):
        stats = random_stats(seed)
        judged, names = judge_boxes(stats), ["a", "b", "c", "d"]
        kind_of = dict(zip(judged.scores.tolist(), judged.kinds.tolist(), strict=True))
        for threshold in (0.0, 0.4, 0.8, 1.1):
            some = judged.of_score(threshold)
            kinds, counts = some.kinds.tolist(), some.count()
            correct, ignored = kinds.count("correct"), kinds.count(IGNORED)
            errors = sum(counts[kind] for kind in KINDS if kind != "missed")
            assert correct + ignored + errors == int(
                (stats["scores"] >= max(threshold, 1e-9)).sum()
            )
            assert correct == some.found.sum()  # no true box twice
            mendable = (~some.found & ~some.missed).sum()
            assert correct + mendable + counts["missed"] == len(some.true_labels)
            assert (some.outcomes == "missed").sum() == counts["missed"]
            assert kinds == [kind_of[score] for score in some.scores.tolist()]
            outcomes = [each.columns for each in box_outcomes(stats, names, threshold)]
            assert sum(each["false"] for each in outcomes) == errors
            assert sum(each["true"] - each["missed"] for each in outcomes) == correct
            assert sum(each["predicted"] for each in outcomes) == len(kinds)
            for image, each in enumerate(outcomes):
                own = {*some.kinds[some.images == image].tolist()} - {"correct", IGNORED}
                lost = bool(some.missed[some.true_images == image].any())
                assert set(each["kinds"]) == own | ({"missed"} if lost else set())


# ---- what mending a kind would add to AP50


def gains_of(
    found: list[tuple[tuple[int, ...], int, float]], true: list[object]
) -> dict[str, float]:
    gains = precision_gains(judge_boxes(box_stats(found, true)), 2)
    return {kind: round(gain, 4) for kind, gain in gains.items() if gain > 1e-9}


ALONE = [((400, 0, 500, 100), CAT), ((400, 200, 500, 300), DOG)]
FOUND = [(*ALONE[0], 0.9), (*ALONE[1], 0.9)]
# With one of two cats found, the AP of cats is 51 of 101 recalls, and that of dogs 1.
BASE = (51 / 101 + 1) / 2


@pytest.mark.parametrize(
    ("box", "label", "expected"),
    [
        # The mended cat is found: cats rise from 51/101 to 1, and dogs lose nothing at 0.2.
        (SQUARE, DOG, {"classification": 1 - BASE, FALSE_NEGATIVES: 1 - BASE}),
        (HALF_RIGHT, CAT, {"localization": 1 - BASE, FALSE_NEGATIVES: 1 - BASE}),
        # Removed, a detection below all others changes no AP; the cat that it is not is missed.
        (HALF_RIGHT, DOG, {"missed": 1 - BASE, FALSE_NEGATIVES: 1 - BASE}),
        (FAR, CAT, {"missed": 1 - BASE, FALSE_NEGATIVES: 1 - BASE}),
    ],
)
def test_precision_gains_of_one_mended_kind(
    box: tuple[int, ...], label: int, expected: dict[str, float]
) -> None:
    gains = gains_of([*FOUND, (box, label, 0.2)], [*ALONE, (SQUARE, CAT)])
    assert gains == {kind: round(gain, 4) for kind, gain in expected.items()}


@pytest.mark.parametrize(
    ("box", "kind"),
    [(FAR, "background"), (ALONE[0][0], "duplicate"), ((400, 200, 500, 240), "both")],
)
def test_precision_gains_of_removed_detections(box: tuple[int, ...], kind: str) -> None:
    """The best detection of cats is wrong, so that all of them have a precision of 1/2."""
    first, score = (0.95, 0.9) if kind != "duplicate" else (0.9, 0.95)
    true = [*ALONE, (SQUARE, CAT)] if kind == "duplicate" else ALONE
    found = [(box, CAT, first), (ALONE[0][0], CAT, score), FOUND[1]]
    if kind == "duplicate":  # between two right ones: the second has a precision of 2/3
        found.append((SQUARE, CAT, 0.5))
        lost = 50 / 101 * (1 - 2 / 3) / 2
    else:
        lost = (1 - 1 / 2) / 2
    assert gains_of(found, true) == {kind: round(lost, 4), FALSE_POSITIVES: round(lost, 4)}


def test_precision_gains_mend_one_detection_of_a_true_box() -> None:
    """Of two that would match it, the better one is mended, and the other one removed."""
    found = [*FOUND, (HALF_RIGHT, CAT, 0.5), (SQUARE, DOG, 0.3), ((0, 0, 40, 100), CAT, 0.2)]
    judged = judge_boxes(box_stats(found, [*ALONE, (SQUARE, CAT)]))
    gains = precision_gains(judged, 2)
    assert gains["localization"] == pytest.approx(1 - BASE)
    assert gains["classification"] == 0  # the place of the better one stays wrong
    assert judged.outcomes.tolist() == ["correct", "correct", "localization"]


def test_ap50_of_judged_boxes_is_that_of_the_metrics() -> None:
    for seed in range(10):
        stats = random_stats(seed, crowds=0.15)
        ranked = rank_boxes(judge_boxes(stats), 4)
        measured = summarize_boxes(stats, list("abcd"))["ap50"]
        assert ap50(ranked, ranked.positives > 0) == pytest.approx(measured, abs=1e-12)


# What tidecv 1.0.1 gives for `random_stats(7)`: TIDE().evaluate(..., mode=TIDE.BOX), then
# get_main_errors() and get_special_errors(), in percent; and the number of errors of each kind.
TIDECV = {
    "classification": (5.405243673173523, 39),
    "localization": (0.7708491157416404, 14),
    "both": (0.7697496743805007, 5),
    "duplicate": (3.3112024950665884, 74),
    "background": (14.573022084849832, 60),
    "missed": (6.973893711624761, 6),
    FALSE_POSITIVES: (46.97192763233535, 0),
    FALSE_NEGATIVES: (7.856077386393423, 0),
}


def test_precision_gains_are_those_of_tidecv() -> None:
    judged = judge_boxes(random_stats(7))
    gains, counts = precision_gains(judged, 4), judged.count()
    for kind, (gain, count) in TIDECV.items():
        assert gains[kind] == pytest.approx(gain / 100, abs=1e-9)
        assert counts.get(kind, count) == count


# ---- thresholds


def test_threshold_curve_finds_the_best_f1() -> None:
    found = [
        (SQUARE, CAT, 0.9),
        (FAR, CAT, 0.8),
        (ALONE[0][0], CAT, 0.7),
        ((0, 200, 9, 209), CAT, 0.1),
    ]
    curve = threshold_curve(judge_boxes(box_stats(found, [(SQUARE, CAT), ALONE[0]])))
    assert curve.thresholds.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.1])
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 2, 1 / 2, 1, 1]
    assert curve.best == pytest.approx(0.7)
    assert curve.at(0.7) == curve.at(0.65) == pytest.approx((2 / 3, 1.0, 0.8))
    assert np.isnan(curve.at(0.95)[0])
    empty: dict[str, Tensor] = box_stats([], [(SQUARE, CAT)])
    assert threshold_curve(judge_boxes(empty)).best is None
    assert torch.equal(empty["found"], torch.tensor([0]))
