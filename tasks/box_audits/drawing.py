"""Drawings of detections: boxes, labels and scores, beside the true boxes if they are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw
from torch import Tensor

from finetune.task_parts.samples import Prediction
from tasks.image.sheets import LINE, palette, side_by_side

SIDES = ("xmin", "ymin", "xmax", "ymax")
UNKNOWN = (150, 150, 150)  # color of classes that the model does not know
DASH = 5  # pixels

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Mark:
    """A box to draw, xyxy in pixels of the image.

    Attributes:
        label: sets the color.
        score: None for a true box.
        caption: what is written at the box; "" for label and score.
    """

    box: Box
    label: str
    score: float | None = None
    caption: str = ""
    is_dashed: bool = False

    @property
    def text(self) -> str:
        if self.caption:
            return self.caption
        return self.label if self.score is None else f"{self.label} {self.score:.2f}"


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
    colors = class_colors(names)
    drawn = draw_marks(image, predicted, colors)
    if truth is None:
        return drawn
    return side_by_side([("predicted", drawn), ("true", draw_marks(image, truth, colors))], caption)


def class_colors(names: Sequence[str]) -> dict[str, Color]:
    """Return a color for each class."""
    return dict(zip(names, palette(len(names) + 1)[1:], strict=True))


def draw_marks(
    image: Image.Image, marks: Sequence[Mark], colors: Mapping[str, Color]
) -> Image.Image:
    """Draw boxes on a copy of an image, in ascending order of score: the best are on top.

    Boxes of labels without a color are gray.
    """
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    for mark in sorted(marks, key=lambda mark: mark.score or 0):
        color = colors.get(mark.label, UNKNOWN)
        draw_box(draw, mark, color, max(1, round(max(image.size) / 300)))
        left, top, *_ = _corners(mark)
        line = top - LINE if top >= LINE else top
        bounds = draw.textbbox((left + 1, line + 1), mark.text)
        draw.rectangle((left, line, bounds[2] + 2, line + LINE - 1), fill=color)
        draw.text((left + 1, line + 1), mark.text, fill=text_color(color))
    return drawn


def draw_box(draw: ImageDraw.ImageDraw, mark: Mark, color: Color, width: int) -> None:
    """Draw the outline of a box, `width` pixels wide."""
    corners = _corners(mark)
    if not mark.is_dashed:
        draw.rectangle(corners, outline=color, width=width)
        return
    for dash in _dashes(*corners):
        draw.line(dash, fill=color, width=width)


def _corners(mark: Mark) -> tuple[int, int, int, int]:
    left, top = (max(0, round(value)) for value in mark.box[:2])
    return left, top, max(left, round(mark.box[2]) - 1), max(top, round(mark.box[3]) - 1)


def _dashes(left: int, top: int, right: int, bottom: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the lines, x1, y1, x2, y2, that make up a dashed box."""
    for x in range(left, right + 1, 2 * DASH):
        for y in (top, bottom):
            yield x, y, min(x + DASH, right), y
    for y in range(top, bottom + 1, 2 * DASH):
        for x in (left, right):
            yield x, y, x, min(y + DASH, bottom)


def scaled(marks: Sequence[Mark], factor: float) -> list[Mark]:
    """Return boxes of an image that is resized by `factor`."""
    return [replace(mark, box=_scaled_box(mark.box, factor)) for mark in marks]


def _scaled_box(box: Box, factor: float) -> Box:
    left, top, right, bottom = box
    return factor * left, factor * top, factor * right, factor * bottom


def text_color(color: Color) -> str:
    """Return the text color that is legible on `color`."""
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
