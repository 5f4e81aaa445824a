"""Pictures of detections: boxes, labels and scores, and the truth beside them where it is known."""

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
GAP = 6  # pixels between pictures
SHEET = 16
"""Pictures on a contact sheet."""
SIDE = 224  # pixels of the longer side of a picture on a contact sheet


@dataclass(frozen=True)
class Mark:
    """A box to draw, xyxy in pixels of the picture."""

    box: tuple[float, float, float, float]
    label: str
    score: float | None = None


def predicted_marks(prediction: Prediction) -> list[Mark]:
    """The boxes of a prediction of object detection."""
    return [
        Mark(tuple(item["box"][side] for side in SIDES), item["label"], item["score"])
        for item in prediction["detections"]
    ]


def true_marks(truth: Truth, names: Sequence[str]) -> list[Mark]:
    """The true boxes of a picture."""
    return _marks(truth.boxes, truth.labels, None, names)


def draw_pair(
    image: Image.Image, said: Sequence[Mark], truth: Sequence[Mark] | None, names: Sequence[str]
) -> Image.Image:
    """The picture with what was predicted, and beside it with what is true, if that is known."""
    shown = draw_marks(image, said, names)
    if truth is None:
        return shown
    sheet = Image.new("RGB", (2 * image.width + GAP, image.height + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (title, picture) in enumerate(
        (("predicted", shown), ("true", draw_marks(image, truth, names)))
    ):
        left = place * (image.width + GAP)
        draw.text((left + 2, 0), title, fill="black")
        sheet.paste(picture, (left, LINE))
    return sheet


def draw_marks(image: Image.Image, marks: Sequence[Mark], names: Sequence[str]) -> Image.Image:
    """A copy of the picture with boxes; the weakest first, so that the best are seen whole."""
    shown = image.convert("RGB")
    draw = ImageDraw.Draw(shown)
    colors = dict(zip(names, palette(len(names) + 1)[1:], strict=True))
    width = max(1, round(max(image.size) / 300))
    for mark in sorted(marks, key=lambda mark: mark.score or 0):
        left, top = (max(0, round(value)) for value in mark.box[:2])
        right, bottom = max(left, round(mark.box[2]) - 1), max(top, round(mark.box[3]) - 1)
        color = colors[mark.label]
        draw.rectangle((left, top, right, bottom), outline=color, width=width)
        words = mark.label if mark.score is None else f"{mark.label} {mark.score:.2f}"
        above = top - LINE if top >= LINE else top
        text = draw.textbbox((left + 1, above + 1), words)
        draw.rectangle((left, above, text[2] + 2, above + LINE - 1), fill=color)
        draw.text((left + 1, above + 1), words, fill=_readable_on(color))
    return shown


def draw_detection_sheet(
    picture: Callable[[int], Image.Image],
    stats: Mapping[str, Tensor],
    names: Sequence[str],
    least: float,
) -> Image.Image:
    """A contact sheet of pairs, predicted and true, of pictures spread over a split.

    `picture` reads one by its place in the split; detections that score under `least` are left out.
    """
    pairs, total = [], len(stats["found"])
    for place in sorted({total * number // SHEET for number in range(min(SHEET, total))}):
        image = picture(place)
        factor = SIDE / max(image.size)
        small = image.resize((round(image.width * factor), round(image.height * factor)))
        found, present = int(stats["found"][place]), int(stats["present"][place])
        scores = stats["scores"][place, :found]
        kept = scores >= least
        boxes = stats["boxes"][place, :found][kept] * factor
        said = _marks(boxes, stats["labels"][place, :found][kept], scores[kept], names)
        true_boxes = stats["true_boxes"][place, :present] * factor
        truth = _marks(true_boxes, stats["true_labels"][place, :present], None, names)
        pairs.append(draw_pair(small, said, truth, names))
    across = max(1, round(math.sqrt(len(pairs) / 2)))
    width, height = (max(pair.size[axis] for pair in pairs) + GAP for axis in (0, 1))
    rows = -(-len(pairs) // across)
    sheet = Image.new("RGB", (across * width + GAP, rows * height + GAP), "white")
    for number, pair in enumerate(pairs):
        down, right = divmod(number, across)
        sheet.paste(pair, (GAP + right * width, GAP + down * height))
    return sheet


def _marks(
    boxes: Tensor, labels: Tensor, scores: Tensor | None, names: Sequence[str]
) -> list[Mark]:
    given = [None] * len(boxes) if scores is None else scores.tolist()
    rows = zip(boxes.tolist(), labels.tolist(), given, strict=True)
    return [Mark(tuple(box), names[int(label)], score) for box, label, score in rows]


def _readable_on(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
