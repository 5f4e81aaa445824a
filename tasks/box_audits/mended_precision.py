"""The AP50 that mending each kind of error would give, as TIDE computes it (arXiv:2008.08115).

One kind is mended at a time, so the gains do not add up to what is missing to 1: a class and a
place that are both wrong, or errors behind other ones, need more than one.

Shapes: D detections, T true boxes, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tasks.box_audits.judged_boxes import (
    CLASSIFICATION,
    CORRECT,
    IGNORED,
    KINDS,
    LOCALIZATION,
    MISSED,
    NONE,
    Array,
    JudgedBoxes,
)

FALSE_POSITIVES, FALSE_NEGATIVES = "all false positives", "all false negatives"
RECALLS = np.linspace(0, 1, 101)  # of the COCO protocol


@dataclass(frozen=True)
class Ranked:
    """What the AP is computed from: detections [D], and numbers of true boxes [C]."""

    scores: Array
    labels: Array
    hits: Array
    positives: Array

    def keep(self, kept: Array) -> Ranked:
        """Return these with the detections [D] that are kept."""
        return replace(
            self, scores=self.scores[kept], labels=self.labels[kept], hits=self.hits[kept]
        )


def average_precision(scores: Array, hits: Array, positives: int) -> float:
    """Return the AP of detections [D] of a class that has `positives` true boxes, as COCO does."""
    if not positives or not len(scores):
        return 0.0
    hits = hits[np.argsort(-scores, kind="stable")].cumsum()
    recall, precision = hits / positives, hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(highest, 0.0)[reached].mean())


def rank_boxes(judged: JudgedBoxes, classes: int) -> Ranked:
    """Return what the AP50 of `judged` is computed from; ignored detections are left out."""
    positives = np.bincount(judged.true_labels, minlength=classes)
    everything = Ranked(judged.scores, judged.labels, judged.kinds == CORRECT, positives)
    return everything.keep(judged.kinds != IGNORED)


def ap50(ranked: Ranked, known: Array) -> float:
    """Return the mean AP over classes that are `known` [C] and have boxes; NaN without any."""
    values = []
    for label in np.flatnonzero(known):
        own = ranked.labels == label
        if own.any() or ranked.positives[label]:
            hits, positives = ranked.hits[own], int(ranked.positives[label])
            values.append(average_precision(ranked.scores[own], hits, positives))
    return float(np.mean(values)) if values else float("nan")


def precision_gains(judged: JudgedBoxes, classes: int) -> dict[str, float]:
    """Return what mending all errors of a kind would add to AP50, {kind: gain}.

    Classification: a detection gets the class of its true box; localization: its place; both,
    duplicate, background: it is removed; missed: the true boxes are. Where several detections would
    match one true box, the best is mended and the others are removed. The last two are all false
    positives, put below all others, and all unmatched true boxes, removed.
    """
    ranked = rank_boxes(judged, classes)
    known = ranked.positives > 0
    base = ap50(ranked, known)
    mended = {kind: _mend(judged, kind, ranked) for kind in KINDS}
    mended[FALSE_POSITIVES] = replace(ranked, scores=ranked.hits.astype(np.float64))
    mended[FALSE_NEGATIVES] = _without(ranked, judged.true_labels[~judged.found])
    return {name: max(0.0, ap50(each, known) - base) for name, each in mended.items()}


def _mend(judged: JudgedBoxes, kind: str, ranked: Ranked) -> Ranked:
    if kind == MISSED:
        return _without(ranked, judged.true_labels[judged.missed])
    counted = judged.kinds != IGNORED
    wrong = (judged.kinds == kind)[counted]
    if kind not in (CLASSIFICATION, LOCALIZATION):
        return ranked.keep(~wrong)
    right = wrong & _best_of_targets(judged)[counted]
    labels = ranked.labels.copy()
    labels[right] = judged.true_labels[judged.targets[counted][right]]
    return replace(ranked, labels=labels, hits=ranked.hits | right).keep(~wrong | right)


def _best_of_targets(judged: JudgedBoxes) -> Array:
    """True for the best detection [D] of each true box that has errors only."""
    best = np.zeros(len(judged.scores), bool)
    mendable = np.isin(judged.kinds, (CLASSIFICATION, LOCALIZATION))
    some = np.flatnonzero(mendable & (judged.targets != NONE))
    some = some[~judged.found[judged.targets[some]]]
    some = some[np.argsort(-judged.scores[some], kind="stable")]
    best[some[np.unique(judged.targets[some], return_index=True)[1]]] = True
    return best


def _without(ranked: Ranked, labels: Array) -> Ranked:
    """Return `ranked` without as many true boxes as there are `labels` of each class."""
    removed = np.bincount(labels, minlength=len(ranked.positives))
    return replace(ranked, positives=ranked.positives - removed)
