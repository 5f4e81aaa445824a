"""Doubtful boxes as lines of a table that people review, and data.relabel or data.drop read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from finetune.task_parts.samples import Row
from tasks.box_audits.doubtful_boxes import Doubt
from tasks.box_audits.judged_boxes import NONE, JudgedBoxes
from tasks.objects.revised_objects import NO_OBJECT, WRONG_CLASS, box_text


def doubt_lines(
    doubts: Sequence[Doubt],
    judged: JudgedBoxes,
    names: Sequence[str],
    numbers_of: Callable[[Sequence[int]], Iterable[Sequence[int]]],
) -> list[tuple[int, Row]]:
    """Return [(image, line)] of boxes that a detector contradicts, in the order of the doubts.

    `judged` has the scores to show. `numbers_of` gives for images the number of each true box among
    the objects of its row. Where the class is wrong, the given box is kept; it lies as well as the
    detected one.
    """
    images = list(dict.fromkeys(doubt.image for doubt in doubts))
    numbers = dict(zip(images, numbers_of(images), strict=True))
    first = {image: int(np.searchsorted(judged.true_images, image)) for image in images}
    lines = []
    for doubt in doubts:
        given = suggested = given_box = suggested_box = number = score = ""
        if doubt.true != NONE:
            number = str(numbers[doubt.image][doubt.true - first[doubt.image]])
            given = names[int(judged.true_labels[doubt.true])]
            given_box = box_text(judged.true_boxes[doubt.true])
        if doubt.detection != NONE and doubt.kind != NO_OBJECT:
            suggested = names[int(judged.labels[doubt.detection])]
            score = f"{judged.scores[doubt.detection]:.4f}"
            if doubt.kind != WRONG_CLASS:
                suggested_box = box_text(judged.boxes[doubt.detection])
        line = {
            "object": number,
            "kind": doubt.kind,
            "given": given,
            "suggested": suggested,
            "given_box": given_box,
            "suggested_box": suggested_box,
            "score": score,
        }
        lines.append((doubt.image, line))
    return lines
