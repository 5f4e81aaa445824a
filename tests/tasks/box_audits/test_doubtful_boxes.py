"""Annotations that a detector contradicts: each kind once, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.box_audits.doubt_lines import doubt_lines
from tasks.box_audits.doubtful_boxes import NONE, find_doubts
from tasks.box_audits.judged_boxes import judge_boxes
from tests.support.judged_scenes import box_stats

CAT, DOG = 0, 1
SQUARE = (0, 0, 100, 100)
HALF = (0, 0, 100, 40)
FAR = (300, 300, 340, 340)
# Ten objects of each class that are found, at a score of 0.6.
USUAL = [((200 + 60 * n, 60 * label, 240 + 60 * n, 60 * label + 40), label) for n in range(10)
         for label in (CAT, DOG)]  # fmt: skip


def doubts_of(found: list[Any], true: list[Any]) -> list[tuple[str, bool, bool]]:
    stats = box_stats([*((*each, 0.6) for each in USUAL), *found], [*USUAL, *true])
    return [
        (doubt.kind, doubt.detection != NONE, doubt.true != NONE)
        for doubt in find_doubts(judge_boxes(stats), 2)
    ]


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([(SQUARE, DOG, 0.9)], [(SQUARE, CAT)], ("class", True, True)),
        ([(HALF, CAT, 0.9)], [(SQUARE, CAT)], ("place", True, True)),
        ([(SQUARE, CAT, 0.9)], [], ("object without a label", True, False)),
        ([(HALF, DOG, 0.9)], [(SQUARE, CAT)], ("object without a label", True, False)),
        ([(HALF, DOG, 0.1)], [(SQUARE, CAT)], ("label without an object", False, True)),
        ([], [(SQUARE, CAT)], ("label without an object", False, True)),
    ],
)
def test_find_doubts_names_what_a_sure_detection_contradicts(
    found: list[Any], true: list[Any], expected: tuple[str, bool, bool]
) -> None:
    assert expected in doubts_of(found, true)


@pytest.mark.parametrize(
    ("found", "true"),
    [
        ([], []),
        ([(SQUARE, DOG, 0.5)], [(SQUARE, CAT)]),  # less sure than of other dogs
        ([(SQUARE, DOG, 0.7), (SQUARE, CAT, 0.8)], [(SQUARE, CAT)]),  # surer of the given class
        ([(HALF, CAT, 0.7), (SQUARE, CAT, 0.8)], [(SQUARE, CAT)]),  # of two, the place is right
        ([(SQUARE, CAT, 0.8), (SQUARE, CAT, 0.7)], [(SQUARE, CAT)]),  # a duplicate
        ([(FAR, CAT, 0.3)], []),
    ],
)
def test_find_doubts_leaves_weaker_contradictions_alone(found: list[Any], true: list[Any]) -> None:
    assert doubts_of(found, true) == []


def test_find_doubts_gives_one_for_a_place_and_the_largest_margin_first() -> None:
    found = [(SQUARE, DOG, 0.7), (SQUARE, CAT, 0.9), (FAR, DOG, 0.95)]
    stats = box_stats([*((*each, 0.6) for each in USUAL), *found], USUAL)
    doubts = find_doubts(judge_boxes(stats), 2)
    assert [doubt.margin for doubt in doubts] == pytest.approx([0.35, 0.3])


def test_find_doubts_trusts_no_detector_that_misses_many() -> None:
    stats = box_stats([(*each, 0.6) for each in USUAL[:8]], USUAL)
    assert find_doubts(judge_boxes(stats), 2) == []
    assert find_doubts(judge_boxes(box_stats([], USUAL)), 2) == []


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([(SQUARE, DOG, 0.9)], [(SQUARE, CAT)], ("121", "class", "cat", "dog", "")),
        ([(HALF, CAT, 0.9)], [(SQUARE, CAT)], ("121", "place", "cat", "cat", "0.0 0.0 100.0 40.0")),
        (
            [(SQUARE, CAT, 0.9)],
            [],
            ("", "object without a label", "", "cat", "0.0 0.0 100.0 100.0"),
        ),
        ([], [(SQUARE, CAT)], ("121", "label without an object", "cat", "", "")),
    ],
)
def test_doubt_lines_name_the_object_of_the_row_and_what_is_suggested(
    found: list[Any], true: list[Any], expected: tuple[str, ...]
) -> None:
    stats = box_stats([*((*each, 0.6) for each in USUAL), *found], [*USUAL, *true])
    judged = judge_boxes(stats)
    numbers = [[101 + place for place in range(21)]]  # of the row, in which others come first
    doubts = find_doubts(judged, 2)
    [(image, line)] = doubt_lines(doubts, judged, ["cat", "dog"], lambda images: numbers)
    assert image == 0
    assert (
        *(line[name] for name in ("object", "kind", "given", "suggested", "suggested_box")),
    ) == expected
