"""Section on suspected label errors of boxes: a table, and pictures of the first ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from finetune.audit.sections import Card, Cards, Link, Note, ReportSection, Table
from finetune.errors import format_count
from finetune.task_parts.samples import Row
from finetune.task_parts.views import Picture
from tasks.box_audits.doubtful_boxes import Doubt, find_doubts
from tasks.box_audits.drawing import Color, Mark, draw_box, scaled
from tasks.box_audits.judged_boxes import NONE, JudgedBoxes, judge_boxes

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence

MOST_LISTED, MOST_SHOWN = 50, 6
SIDE = 280  # pixels of a picture
GIVEN: Color = (217, 130, 43)
SUGGESTED: Color = (59, 111, 182)
NO_BREAK = "\u00a0"  # space at which a line is not broken
CAPTION = "Orange, dashed: as labeled; blue: as detected."
TEXT = (
    "Where a detection contradicts the annotation, with a score from which its class is mostly "
    "right; or where hardly anything is detected, and nearly all other objects of the class are "
    "found. Some are errors of the detector, some of the annotation: look at them, the clearest "
    "first."
)


def doubt_section(
    evidence: Evidence,
    judged: JudgedBoxes,
    names: Sequence[str],
    open_image: Callable[[Row], Image.Image],
) -> ReportSection:
    """List annotations that the detector contradicts, by the scores that its network gives.

    `judged` are the same detections with the scores to show, in the same order.
    """
    title = "Suspected label errors"
    doubts = find_doubts(judge_boxes(evidence.stats), len(names))
    if not doubts:
        return ReportSection("labels", title, [Note("No annotation of a box is suspicious.")])
    listed = doubts[:MOST_LISTED]
    rows = evidence.rows([doubt.image for doubt in listed])
    lines, cards = list[list[Any]](), list[Card]()
    for doubt, row in zip(listed, rows, strict=True):
        number = evidence.numbers[doubt.image]
        facts = _facts(doubt, judged, names)
        lines.append([Link(str(number), {"row": number}), *facts.values(), evidence.content(row)])
        if len(cards) < MOST_SHOWN:
            picture = _draw(open_image(row), _marks(doubt, judged))
            cards.append(Card(f"row {number}", facts, pictures=[picture]))
    note = f"The first {len(lines)} of {len(doubts)}." if len(lines) < len(doubts) else ""
    table = Table("", ["row", *_facts(listed[0], judged, names), "content"], lines, note)
    images = len({doubt.image for doubt in doubts})
    finding = (
        f"{format_count(len(doubts), 'suspicious annotation')} in {images} of "
        f"{format_count(len(evidence), 'image')}"
    )
    return ReportSection("labels", title, [Note(TEXT), Cards("doubt", cards), table], finding)


def _facts(doubt: Doubt, judged: JudgedBoxes, names: Sequence[str]) -> dict[str, str]:
    given = "none" if doubt.true == NONE else names[int(judged.true_labels[doubt.true])]
    suggested, score = "none", ""
    if doubt.detection != NONE:
        suggested = names[int(judged.labels[doubt.detection])]
        score = f"{judged.scores[doubt.detection]:.3f}"
    corners = _marks(doubt, judged)[-1].box
    return {
        "suspicion": doubt.kind,
        "labeled": given,
        "detected": suggested,
        "score": score,
        "box": NO_BREAK.join(f"{value:.0f}" for value in corners),
    }


def _marks(doubt: Doubt, judged: JudgedBoxes) -> list[Mark]:
    """Return the annotated box, dashed, and the detected one, as far as there are such ones."""
    marks = []
    if doubt.true != NONE:
        marks.append(Mark(tuple(judged.true_boxes[doubt.true].tolist()), "labeled", is_dashed=True))
    if doubt.detection != NONE:
        marks.append(Mark(tuple(judged.boxes[doubt.detection].tolist()), "detected"))
    return marks


def _draw(image: Image.Image, marks: Sequence[Mark]) -> Picture:
    """Draw boxes on the part of an image around them, as wide and high again as they are."""
    boxes = np.array([mark.box for mark in marks])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    margin = (high - low) / 2
    left, top = np.maximum(low - margin, 0).astype(int).tolist()
    right, bottom = np.minimum(high + margin, image.size).astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    factor = SIDE / max(right - left, bottom - top)
    size = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))
    part = image.convert("RGB").crop((left, top, right, bottom)).resize(size)
    draw = ImageDraw.Draw(part)
    for mark in marks:
        x1, y1, x2, y2 = mark.box
        moved = replace(mark, box=(x1 - left, y1 - top, x2 - left, y2 - top))
        color = GIVEN if mark.is_dashed else SUGGESTED
        draw_box(draw, scaled([moved], factor)[0], color, 3)
    return Picture(CAPTION, np.asarray(part))
