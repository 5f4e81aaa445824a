"""True boxes whose class, place or presence a trained detector contradicts.

A detection contradicts an annotation if its score is one from which detections of its class are
mostly correct, and is above that of the detection which agrees with the annotation, if any. A true
box that hardly any detection comes near is doubtful, too, where nearly all others of its class are
found. The scores play the part of the probabilities in confident learning (arXiv:1911.00068).

Shapes: D detections, T true boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tasks.box_audits.judged_boxes import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    LOCALIZATION,
    MATCH,
    NEAR,
    NONE,
    Array,
    JudgedBoxes,
    overlaps_of,
)
from tasks.objects.revised_objects import NO_LABEL, NO_OBJECT, WRONG_CLASS, WRONG_PLACE

DOUBTS = {
    CLASSIFICATION: WRONG_CLASS,
    LOCALIZATION: WRONG_PLACE,
    BACKGROUND: NO_LABEL,
    BOTH: NO_LABEL,
}
PRECISION, QUANTILE = 0.7, 0.1
"""A detection may contradict if as many of its class are correct from its score on, and if as many
of the correct ones have lower scores. Best in benchmarks/box_label_errors.py."""
SURE_RECALL = 0.9
"""Share of the boxes of a class that are found, from which one without detections is doubtful."""
HARDLY = 0.4
"""Share of the usual score below which a detection does not support a true box."""


@dataclass(frozen=True)
class Doubt:
    """An annotation that a detection contradicts, or one that no detection supports.

    Attributes:
        image: place in the split.
        margin: how far the scores speak against the annotation.
        detection, true: indices of D and T; NONE without one.
    """

    kind: str
    image: int
    margin: float
    detection: int = NONE
    true: int = NONE


def find_doubts(judged: JudgedBoxes, classes: int) -> list[Doubt]:
    """Return the doubtful annotations of a split, those with the largest margins first."""
    bars = np.array([_sure_score(judged, label) for label in range(classes)])
    doubts = [*_contradicted(judged, bars), *_unsupported(judged, classes)]
    return sorted(doubts, key=lambda doubt: -doubt.margin)


def _sure_score(judged: JudgedBoxes, label: int) -> float:
    """Return the score from which a detection of a class may contradict; infinity for none."""
    counted = (judged.labels == label) & ~np.isin(judged.kinds, (IGNORED, DUPLICATE))
    order = np.argsort(-judged.scores[counted], kind="stable")
    scores, hits = judged.scores[counted][order], (judged.kinds[counted] == CORRECT)[order]
    precise = np.flatnonzero(hits.cumsum() >= PRECISION * np.arange(1, len(hits) + 1))
    if not len(precise):
        return float("inf")
    return float(max(scores[precise[-1]], np.quantile(scores[hits], QUANTILE)))


def _contradicted(judged: JudgedBoxes, bars: Array) -> Iterator[Doubt]:
    """Yield the doubts that come from detections, one for each true box or place."""
    agreeing = np.zeros(len(judged.true_labels))
    right = judged.kinds == CORRECT
    agreeing[judged.targets[right]] = judged.scores[right]
    needed = np.maximum(bars[judged.labels], np.append(agreeing, 0.0)[judged.targets])
    margins = judged.scores - needed
    seen, places = set[int](), dict[int, list[int]]()
    for index in np.argsort(-margins, kind="stable").tolist():
        if margins[index] < 0:
            return
        kind, target = DOUBTS.get(str(judged.kinds[index])), int(judged.targets[index])
        image = int(judged.images[index])
        others = judged.boxes[places.setdefault(image, [])]
        is_known = overlaps_of(judged.boxes[[index]], others).max(initial=0.0) >= MATCH
        if kind is None or target in seen or is_known:
            continue
        places[image].append(index)
        seen |= {target} - {NONE}
        yield Doubt(kind, image, float(margins[index]), index, target)


def _unsupported(judged: JudgedBoxes, classes: int) -> Iterator[Doubt]:
    """Yield the true boxes near which all scores are low, of classes that are nearly all found."""
    right = judged.kinds == CORRECT
    found = np.bincount(judged.labels[right], minlength=classes)
    sums = np.bincount(judged.labels[right], judged.scores[right], minlength=classes)
    objects = np.bincount(judged.true_labels, minlength=classes)
    recall, usual = found / np.maximum(objects, 1), sums / np.maximum(found, 1)
    for index in np.flatnonzero(recall[judged.true_labels] >= SURE_RECALL).tolist():
        image = int(judged.true_images[index])
        own = slice(*np.searchsorted(judged.images, [image, image + 1]))
        near = overlaps_of(judged.true_boxes[[index]], judged.boxes[own])[0] >= NEAR
        support = float(judged.scores[own][near].max(initial=0.0))
        expected = float(usual[judged.true_labels[index]])
        if support < HARDLY * expected:
            yield Doubt(NO_OBJECT, image, expected - support, true=index)
