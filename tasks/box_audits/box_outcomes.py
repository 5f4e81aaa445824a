"""The outcome of each image: numbers of boxes, and its errors by kind and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from finetune.task_parts.views import Outcome
from tasks.box_audits.judged_boxes import (
    CLASSIFICATION,
    CORRECT,
    IGNORED,
    KINDS,
    MISSED,
    judge_boxes,
)

KINDS_OF, ERRORS_OF, CONFUSIONS_OF = "kinds", "errors", "confusions"
"""Columns of the rows: the kinds of errors of an image, these with the class of the box, and pairs
of a true and a predicted class. The last two are filtered by, and not listed."""


def name_error(kind: str, label: str) -> str:
    """Name an error by its kind and the class of the box: the predicted one, or the missed one."""
    return f"{kind} {label}"


def name_confusion(true: str, predicted: str) -> str:
    """Name a confusion of two classes."""
    return f"{true} as {predicted}"


def box_outcomes(
    stats: Mapping[str, Tensor], names: Sequence[str], threshold: float
) -> list[Outcome]:
    """Return the outcome of each image, over detections with a score of at least `threshold`.

    Columns: "true" objects without crowds, "predicted" detections, "missed" objects that none
    matches, "false" detections that match none, and "kinds". The mistake is the number of missed
    objects and false detections.
    """
    judged, images = judge_boxes(stats).of_score(threshold), len(stats["found"])
    wrong = ~np.isin(judged.kinds, (CORRECT, IGNORED))
    counts = {
        "true": judged.true_images,
        "predicted": judged.images,
        "missed": judged.true_images[~judged.found],
        "false": judged.images[wrong],
    }
    numbers = {name: np.bincount(each, minlength=images) for name, each in counts.items()}
    kinds, errors, confusions = (_empty_sets(images) for _ in range(3))
    for index in np.flatnonzero(wrong):
        image, kind, label = judged.images[index], judged.kinds[index], judged.labels[index]
        kinds[image].add(str(kind))
        errors[image].add(name_error(str(kind), names[label]))
        if kind == CLASSIFICATION:
            true = judged.true_labels[judged.targets[index]]
            confusions[image].add(name_confusion(names[true], names[label]))
    for index in np.flatnonzero(judged.missed):
        kinds[judged.true_images[index]].add(MISSED)
        errors[judged.true_images[index]].add(name_error(MISSED, names[judged.true_labels[index]]))
    return [
        Outcome(
            {
                **{name: int(number[image]) for name, number in numbers.items()},
                KINDS_OF: [kind for kind in KINDS if kind in kinds[image]],
            },
            int(numbers["missed"][image] + numbers["false"][image]),
            {ERRORS_OF: sorted(errors[image]), CONFUSIONS_OF: sorted(confusions[image])},
        )
        for image in range(images)
    ]


def _empty_sets(count: int) -> list[set[str]]:
    return [set() for _ in range(count)]
