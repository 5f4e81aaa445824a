"""Pictures of a split with true and predicted boxes, each error named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from finetune.audit.sections import WORST, Card, Cards, Note, ReportSection
from finetune.audit.worst_rows import SHOWN, show_value
from finetune.task_parts.samples import Row
from finetune.task_parts.views import Picture
from tasks.box_audits.box_outcomes import name_error
from tasks.box_audits.drawing import Color, Mark, draw_box, scaled, text_color
from tasks.box_audits.error_sections import KIND_COLORS
from tasks.box_audits.judged_boxes import CLASSIFICATION, CORRECT, MISSED, JudgedBoxes, judge_boxes

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence

SIDE, TEXT_SIZE, LINE = 480, 15, 20  # pixels; a page shows them at two thirds
CAPTION = "Solid: predicted, with its score; dashed: true."

Place = tuple[int, int, int, int]


def worst_section(
    evidence: Evidence,
    stats: Mapping[str, Tensor],
    names: Sequence[str],
    threshold: float,
    open_image: Callable[[Row], Image.Image],
) -> ReportSection:
    """Show the images with the most errors; `open_image` decodes the image of a row."""
    worst = [n for n in evidence.worst_first[:SHOWN] if evidence.outcomes[n].mistake > 0]
    if not worst:
        return ReportSection(WORST, "Worst errors", [Note("No image has an error.")])
    cards = []
    for position, row in zip(worst, evidence.rows(worst), strict=True):
        own = {name: values[[position]] for name, values in stats.items()}
        picture = picture_errors(open_image(row), own, names, threshold)
        columns = evidence.outcomes[position].columns
        facts = {name: show_value(value) for name, value in columns.items()}
        cards.append(Card(f"row {evidence.numbers[position]}", facts, pictures=[picture]))
    return ReportSection(WORST, "Worst errors", [Cards(WORST, cards)])


def picture_errors(
    image: Image.Image, stats: Mapping[str, Tensor], names: Sequence[str], threshold: float
) -> Picture:
    """Draw the boxes of one image from `threshold` on; `stats` are those of this image [1, ...]."""
    judged = judge_boxes(stats).of_score(threshold)
    factor = SIDE / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    drawn = image.convert("RGB").resize((size[0], size[1]))
    true = scaled(list(_true_marks(judged, names)), factor)
    predicted = scaled(list(_predicted_marks(judged, names)), factor)
    draw, colors = ImageDraw.Draw(drawn), kind_colors()
    for mark in [*true, *reversed(predicted)]:  # the best on top
        draw_box(draw, mark, colors.get(mark.label, colors[CORRECT]), 2)
    wrong = [mark for mark in [*true, *predicted] if mark.label != CORRECT]
    right = [mark for mark in predicted if mark.label == CORRECT]
    _write_captions(draw, [mark for mark in [*wrong, *right] if mark.caption], colors)
    counts = {CORRECT: int((judged.kinds == CORRECT).sum()), **judged.count()}
    return Picture(CAPTION, np.asarray(_with_legend(drawn, counts, colors)))


def kind_colors() -> dict[str, Color]:
    """Return the color of each kind of error as red, green and blue."""
    return {
        kind: (int(color[1:3], 16), int(color[3:5], 16), int(color[5:], 16))
        for kind, color in KIND_COLORS.items()
    }


def _true_marks(judged: JudgedBoxes, names: Sequence[str]) -> Iterator[Mark]:
    """Yield the true boxes; a caption has what no detection tells."""
    for box, label, outcome in zip(
        judged.true_boxes, judged.true_labels, judged.outcomes, strict=True
    ):
        name = names[int(label)]
        captions = {MISSED: name_error(MISSED, name), CLASSIFICATION: f"true {name}"}
        caption = captions.get(str(outcome), "")
        yield Mark(tuple(box.tolist()), str(outcome), caption=caption, is_dashed=True)


def _predicted_marks(judged: JudgedBoxes, names: Sequence[str]) -> Iterator[Mark]:
    for box, label, kind, score in zip(
        judged.boxes, judged.labels, judged.kinds, judged.scores, strict=True
    ):
        name = names[int(label)]
        text = name_error(str(kind), name) if kind in KIND_COLORS and kind != CORRECT else name
        yield Mark(tuple(box.tolist()), str(kind), float(score), f"{text} {score:.2f}")


def _write_captions(
    draw: ImageDraw.ImageDraw, marks: Sequence[Mark], colors: Mapping[str, Color]
) -> None:
    """Write the captions at their boxes, the first ones first; those without a free place not."""
    font, taken = ImageFont.load_default(TEXT_SIZE), list[Place]()
    for mark in marks:
        width = int(draw.textlength(mark.caption, font=font)) + 6
        place = next((p for p in _places(mark, width, draw.im.size) if _is_free(p, taken)), None)
        if place is None:
            continue
        taken.append(place)
        color = colors.get(mark.label, colors[CORRECT])
        draw.rectangle(place, fill=color)
        middle = (place[0] + 3, (place[1] + place[3]) // 2)
        draw.text(middle, mark.caption, text_color(color), font, anchor="lm")


def _places(mark: Mark, width: int, size: tuple[int, int]) -> Iterator[Place]:
    """Yield places for a caption: above the box, below it, and within at both edges."""
    left = max(0, min(round(mark.box[0]), size[0] - width))
    top, bottom = round(mark.box[1]), round(mark.box[3])
    for line in (top - LINE, bottom, top, bottom - LINE):
        if 0 <= line <= size[1] - LINE:
            yield left, line, left + width, line + LINE - 1


def _is_free(place: Place, taken: Sequence[Place]) -> bool:
    left, top, right, bottom = place
    return not any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        for other in taken
    )


def _with_legend(
    image: Image.Image, counts: Mapping[str, int], colors: Mapping[str, Color]
) -> Image.Image:
    """Return the image above the kinds that it has, each with its color and its number."""
    font = ImageFont.load_default(TEXT_SIZE)
    draw, entries = ImageDraw.Draw(image), list[tuple[str, int, int, str]]()
    x, y = 0, image.height + 4
    for kind, count in counts.items():
        text = f"{kind} {count}"
        width = LINE + int(draw.textlength(text, font=font)) + 12
        if x and x + width > image.width:
            x, y = 0, y + LINE
        if count:
            entries.append((kind, x, y, text))
            x += width
    whole = Image.new("RGB", (image.width, y + LINE if entries else image.height), "white")
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for kind, x, y, text in entries:
        draw.rectangle((x + 4, y + 4, x + 15, y + 15), fill=colors[kind])
        draw.text((x + LINE, y + LINE // 2), text, "black", font, anchor="lm")
    return whole
