"""Detections matched to true boxes, and the kind of error that each of the others is.

The kinds are those of TIDE (Bolya et al. 2020, arXiv:2008.08115). A detection matches the free true
box of its class with the largest IoU, from 0.5 on, the highest score first. Any other one is, by
its IoU with true boxes of its own class and of other classes, the first of these that holds:

    localization     own class in [0.1, 0.5)
    classification   another class, 0.5 or more
    duplicate        own class, 0.5 or more, but that box is matched by a higher score
    background       less than 0.1 with all
    both             the rest: another class, in [0.1, 0.5)

A true box without a match is missed unless one of the first two would have matched it. A detection
that lies by half or more in a crowd of its class is ignored, as the COCO protocol has it.

Shapes: N images, K detections and M boxes of an image, both padded; D detections and T true boxes
of all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CLASSIFICATION, LOCALIZATION, BOTH = "classification", "localization", "both"
DUPLICATE, BACKGROUND, MISSED = "duplicate", "background", "missed"
KINDS = (CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED)
CORRECT, IGNORED = "correct", "ignored"
MATCH, NEAR = 0.5, 0.1
"""IoU from which a detection matches a box, and from which it is near one."""
NONE = -1

Array = NDArray[Any]


@dataclass(frozen=True)
class JudgedBoxes:
    """All detections of a split with their kinds, and all true boxes but crowds.

    Attributes:
        images: place in the split of the image of each detection [D].
        boxes, scores, labels: [D, 4], [D], [D]; those of an image in descending order of score.
        kinds: one of KINDS but MISSED, or CORRECT, or IGNORED [D].
        targets: the true box that a detection matches, or would match without its error of class
            or place, as an index of T; else NONE [D].
        overlaps: largest IoU with a true box, of any class [D].
        true_images, true_boxes, true_labels, true_areas: the same of the true boxes [T, ...].
    """

    images: Array
    boxes: Array
    scores: Array
    labels: Array
    kinds: Array
    targets: Array
    overlaps: Array
    true_images: Array
    true_boxes: Array
    true_labels: Array
    true_areas: Array

    def of_score(self, threshold: float) -> JudgedBoxes:
        """Return these without the detections of lower scores; no other one changes its kind."""
        kept = self.scores >= threshold
        own = [each.name for each in fields(self) if not each.name.startswith("true_")]
        return replace(self, **{name: getattr(self, name)[kept] for name in own})

    @cached_property
    def found(self) -> Array:
        """True for each true box that a detection matches [T]."""
        return self._reached((CORRECT,))

    @cached_property
    def missed(self) -> Array:
        """True for each true box that no detection matches, or would match if mended [T]."""
        return ~self._reached((CORRECT, CLASSIFICATION, LOCALIZATION))

    def _reached(self, kinds: tuple[str, ...]) -> Array:
        reached = np.zeros(len(self.true_labels), bool)
        reached[self.targets[np.isin(self.kinds, kinds)]] = True
        return reached

    @cached_property
    def outcomes(self) -> Array:
        """What became of each true box [T]: CORRECT, the kind of its best detection, or MISSED."""
        outcomes = np.full(len(self.true_labels), MISSED, self.kinds.dtype)
        best_last = np.argsort(self.scores, kind="stable")
        for kinds in ((CLASSIFICATION, LOCALIZATION), (CORRECT,)):
            some = best_last[np.isin(self.kinds[best_last], kinds)]
            outcomes[self.targets[some]] = self.kinds[some]
        return outcomes

    def count(self) -> dict[str, int]:
        """Return the number of boxes of each of KINDS."""
        counts = {kind: int((self.kinds == kind).sum()) for kind in KINDS}
        return {**counts, MISSED: int(self.missed.sum())}


def judge_boxes(stats: Mapping[str, Tensor]) -> JudgedBoxes:
    """Judge the detections of all images; `stats` are those of `summarize_boxes`."""
    names = ("boxes", "scores", "labels", "true_boxes", "true_labels", "true_areas", "crowds")
    columns = {name: stats[name].numpy() for name in names}
    found, present = stats["found"].tolist(), stats["present"].tolist()
    parts, offset = [], 0
    for image, (count, true) in enumerate(zip(found, present, strict=True)):
        ends = {name: true if name in names[3:] else count for name in names}
        part = _judge({name: columns[name][image, : ends[name]] for name in names}, image)
        part["targets"] = np.where(part["targets"] == NONE, NONE, part["targets"] + offset)
        offset += len(part["true_labels"])
        parts.append(part)
    return JudgedBoxes(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})


def _judge(columns: Mapping[str, Array], image: int) -> dict[str, Array]:
    """Return the fields of JudgedBoxes for one image; `columns` [K, ...] and [M, ...]."""
    order = np.argsort(-columns["scores"], kind="stable")
    boxes, labels = columns["boxes"][order].astype(np.float64), columns["labels"][order]
    crowds = columns["crowds"].astype(bool)
    true = np.flatnonzero(~crowds)
    overlaps = overlaps_of(boxes, columns["true_boxes"][true])
    same = labels[:, None] == columns["true_labels"][None, true]
    kinds, targets = _kinds(overlaps, same)
    covered = overlaps_of(boxes, columns["true_boxes"][crowds], of_first=True) >= MATCH
    covered &= labels[:, None] == columns["true_labels"][None, crowds]
    ignored = covered.any(1) & (kinds != CORRECT)
    kinds[ignored], targets[ignored] = IGNORED, NONE
    return {
        "images": np.full(len(order), image),
        "boxes": boxes,
        "scores": columns["scores"][order],
        "labels": labels,
        "kinds": kinds,
        "targets": targets,
        "overlaps": overlaps.max(1, initial=0.0),
        "true_images": np.full(len(true), image),
        "true_boxes": columns["true_boxes"][true],
        "true_labels": columns["true_labels"][true],
        "true_areas": columns["true_areas"][true],
    }


def _kinds(overlaps: Array, same: Array) -> tuple[Array, Array]:
    """Return kinds [K] and targets [K] of an image's detections, the best first; both [K, M]."""
    own, other = overlaps * same, overlaps * ~same
    kinds = np.full(len(overlaps), BOTH, dtype=f"<U{max(map(len, KINDS))}")
    targets = np.full(len(overlaps), NONE)
    best_own, best_other = own.max(1, initial=0.0), other.max(1, initial=0.0)
    kinds[overlaps.max(1, initial=0.0) < NEAR] = BACKGROUND
    kinds[best_own >= MATCH] = DUPLICATE
    kinds[best_other >= MATCH] = CLASSIFICATION
    kinds[(best_own >= NEAR) & (best_own < MATCH)] = LOCALIZATION
    for kind, values in ((CLASSIFICATION, other), (LOCALIZATION, own)):
        some = np.flatnonzero(kinds == kind)
        targets[some] = values[some].argmax(1) if len(some) else NONE
    free = own.copy()
    for place in np.flatnonzero(best_own >= MATCH):
        target = int(free[place].argmax())
        if free[place, target] >= MATCH:
            kinds[place], targets[place] = CORRECT, target
            free[:, target] = 0
    return kinds, targets


def overlaps_of(first: Array, second: Array, *, of_first: bool = False) -> Array:
    """Return the IoU of boxes [K, 4] and [M, 4], or the share `of_first` that is covered."""
    first, second = first[:, None].astype(np.float64), second[None].astype(np.float64)
    low, high = (
        np.maximum(first[..., :2], second[..., :2]),
        np.minimum(first[..., 2:], second[..., 2:]),
    )
    shared = (high - low).clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    whole = areas[0] if of_first else areas[0] + areas[1] - shared
    share: Array = shared / np.maximum(whole, 1e-12)
    return share
