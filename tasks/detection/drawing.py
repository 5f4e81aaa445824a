"""Drawings of detections: boxes, labels and scores, beside the true boxes if they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw
from torch import Tensor

from finetune.task_parts.samples import Prediction
from tasks.image.sheets import LINE, palette, side_by_side

SIDES = ("xmin", "ymin", "xmax", "ymax")
UNKNOWN = (150, 150, 150)  # color of classes that the model does not know

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A box to draw, xyxy in pixels of the image; `score` is None for a true box."""

    box: Box
    label: str
    score: float | None = None


def predicted_marks(prediction: Prediction) -> list[Mark]:
    """Return the boxes of a prediction."""
    return [
        Mark(tuple(item["box"][side] for side in SIDES), item["label"], item["score"])
        for item in prediction["detections"]
    ]


def true_marks(boxes: Tensor, labels: Tensor, names: Sequence[str]) -> list[Mark]:
    """Return true boxes [M, 4] with their labels [M]."""
    rows = zip(boxes.tolist(), labels.tolist(), strict=True)
    return [Mark(tuple(box), names[int(label)]) for box, label in rows]


def draw_pair(
    image: Image.Image,
    predicted: Sequence[Mark],
    truth: Sequence[Mark] | None,
    names: Sequence[str],
    caption: str = "",
) -> Image.Image:
    """Draw the predicted boxes on an image, and the true boxes on a copy beside it if known."""
    drawn = draw_marks(image, predicted, names)
    if truth is None:
        return drawn
    return side_by_side([("predicted", drawn), ("true", draw_marks(image, truth, names))], caption)


def draw_marks(image: Image.Image, marks: Sequence[Mark], names: Sequence[str]) -> Image.Image:
    """Draw boxes on a copy of an image, in ascending order of score: the best are on top.

    Boxes of classes that are not in `names` are gray.
    """
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    colors = dict(zip(names, palette(len(names) + 1)[1:], strict=True))
    width = max(1, round(max(image.size) / 300))
    for mark in sorted(marks, key=lambda mark: mark.score or 0):
        left, top = (max(0, round(value)) for value in mark.box[:2])
        right, bottom = max(left, round(mark.box[2]) - 1), max(top, round(mark.box[3]) - 1)
        color = colors.get(mark.label, UNKNOWN)
        draw.rectangle((left, top, right, bottom), outline=color, width=width)
        caption = mark.label if mark.score is None else f"{mark.label} {mark.score:.2f}"
        line = top - LINE if top >= LINE else top
        bounds = draw.textbbox((left + 1, line + 1), caption)
        draw.rectangle((left, line, bounds[2] + 2, line + LINE - 1), fill=color)
        draw.text((left + 1, line + 1), caption, fill=_text_color(color))
    return drawn


def scaled(marks: Sequence[Mark], factor: float) -> list[Mark]:
    """Return boxes of an image that is resized by `factor`."""
    return [replace(mark, box=_scaled_box(mark.box, factor)) for mark in marks]


def _scaled_box(box: Box, factor: float) -> Box:
    left, top, right, bottom = box
    return factor * left, factor * top, factor * right, factor * bottom


def _text_color(color: tuple[int, int, int]) -> str:
    """Return the text color that is legible on `color`."""
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
