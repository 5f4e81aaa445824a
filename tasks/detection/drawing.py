"""Drawings of detections: boxes, labels and scores, beside the true boxes if they are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw
from torch import Tensor

from finetune.task_parts import Prediction
from tasks.detection.object_reader import Truth
from tasks.image.palette import palette

SIDES = ("xmin", "ymin", "xmax", "ymax")
LINE = 14  # pixels of a line of text
GAP = 6  # pixels between images
IMAGES_ON_SHEET = 16
SHEET_SIDE = 224  # pixels of the longer side of an image on a contact sheet


@dataclass(frozen=True)
class Mark:
    """A box to draw, xyxy in pixels of the image; `score` is None for a true box."""

    box: tuple[float, float, float, float]
    label: str
    score: float | None = None


def predicted_marks(prediction: Prediction) -> list[Mark]:
    """Return the boxes of a prediction."""
    return [
        Mark(tuple(item["box"][side] for side in SIDES), item["label"], item["score"])
        for item in prediction["detections"]
    ]


def true_marks(truth: Truth, names: Sequence[str]) -> list[Mark]:
    """Return the true boxes of an image."""
    return _marks(truth.boxes, truth.labels, None, names)


def draw_pair(
    image: Image.Image,
    predicted: Sequence[Mark],
    truth: Sequence[Mark] | None,
    names: Sequence[str],
) -> Image.Image:
    """Draw the predicted boxes on an image, and the true boxes on a copy beside it if known."""
    drawn = draw_marks(image, predicted, names)
    if truth is None:
        return drawn
    sheet = Image.new("RGB", (2 * image.width + GAP, image.height + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    panels = (("predicted", drawn), ("true", draw_marks(image, truth, names)))
    for index, (title, panel) in enumerate(panels):
        left = index * (image.width + GAP)
        draw.text((left + 2, 0), title, fill="black")
        sheet.paste(panel, (left, LINE))
    return sheet


def draw_marks(image: Image.Image, marks: Sequence[Mark], names: Sequence[str]) -> Image.Image:
    """Draw boxes on a copy of an image, in ascending order of score: the best are on top."""
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    colors = dict(zip(names, palette(len(names) + 1)[1:], strict=True))
    width = max(1, round(max(image.size) / 300))
    for mark in sorted(marks, key=lambda mark: mark.score or 0):
        left, top = (max(0, round(value)) for value in mark.box[:2])
        right, bottom = max(left, round(mark.box[2]) - 1), max(top, round(mark.box[3]) - 1)
        color = colors[mark.label]
        draw.rectangle((left, top, right, bottom), outline=color, width=width)
        caption = mark.label if mark.score is None else f"{mark.label} {mark.score:.2f}"
        line = top - LINE if top >= LINE else top
        bounds = draw.textbbox((left + 1, line + 1), caption)
        draw.rectangle((left, line, bounds[2] + 2, line + LINE - 1), fill=color)
        draw.text((left + 1, line + 1), caption, fill=_text_color(color))
    return drawn


def draw_detection_sheet(
    read: Callable[[int], Image.Image],
    stats: Mapping[str, Tensor],
    names: Sequence[str],
    threshold: float,
) -> Image.Image:
    """Draw a contact sheet of pairs, predicted and true, for images spread over a split.

    `read` returns an image by its index in the split; detections that score below `threshold` are
    left out.
    """
    pairs, total = [], len(stats["found"])
    count = min(IMAGES_ON_SHEET, total)
    for index in sorted({total * number // IMAGES_ON_SHEET for number in range(count)}):
        image = read(index)
        factor = SHEET_SIDE / max(image.size)
        small = image.resize((round(image.width * factor), round(image.height * factor)))
        found, present = int(stats["found"][index]), int(stats["present"][index])
        scores = stats["scores"][index, :found]
        kept = scores >= threshold
        boxes = stats["boxes"][index, :found][kept] * factor
        predicted = _marks(boxes, stats["labels"][index, :found][kept], scores[kept], names)
        true_boxes = stats["true_boxes"][index, :present] * factor
        truth = _marks(true_boxes, stats["true_labels"][index, :present], None, names)
        pairs.append(draw_pair(small, predicted, truth, names))
    columns = max(1, round(math.sqrt(len(pairs) / 2)))
    width, height = (max(pair.size[axis] for pair in pairs) + GAP for axis in (0, 1))
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        sheet.paste(pair, (GAP + column * width, GAP + row * height))
    return sheet


def _marks(
    boxes: Tensor, labels: Tensor, scores: Tensor | None, names: Sequence[str]
) -> list[Mark]:
    values = [None] * len(boxes) if scores is None else scores.tolist()
    rows = zip(boxes.tolist(), labels.tolist(), values, strict=True)
    return [Mark(tuple(box), names[int(label)], score) for box, label, score in rows]


def _text_color(color: tuple[int, int, int]) -> str:
    """Return the text color that is legible on `color`."""
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
