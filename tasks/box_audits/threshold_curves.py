"""Precision and recall of detections over thresholds of their score, at an IoU of 0.5.

Shapes: D detections, P thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.box_audits.judged_boxes import CORRECT, IGNORED, Array, JudgedBoxes


class Curve(NamedTuple):
    """Precision, recall and F1 of the detections from each threshold on, all [P], descending."""

    thresholds: Array
    precision: Array
    recall: Array
    f1: Array

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Return precision, recall and F1 of the detections from `threshold` on; NaN for none."""
        kept = np.flatnonzero(self.thresholds >= threshold)
        if not len(kept):
            return float("nan"), 0.0, 0.0
        last = kept[-1]
        return float(self.precision[last]), float(self.recall[last]), float(self.f1[last])

    @property
    def best(self) -> float | None:
        """The threshold with the highest F1, of several the highest one; None without any."""
        if not len(self.f1) or not self.f1.max() > 0:
            return None
        return float(self.thresholds[self.f1.argmax()])


def threshold_curve(judged: JudgedBoxes, label: int | None = None) -> Curve:
    """Return the curve of all classes together, or of one; each score is a threshold."""
    own, true = judged.kinds != IGNORED, np.ones(len(judged.true_labels), bool)
    if label is not None:
        own, true = own & (judged.labels == label), judged.true_labels == label
    order = np.argsort(-judged.scores[own], kind="stable")
    scores, hits = judged.scores[own][order], (judged.kinds[own] == CORRECT)[order].cumsum()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else order
    objects = int(true.sum())
    precision, recall = hits[last] / (last + 1), hits[last] / max(objects, 1)
    f1 = 2 * hits[last] / (last + 1 + objects)
    return Curve(scores[last], precision, recall, f1)
