"""Sections on predicted masks: IoU by class and by size, and which classes are taken for which.

The statistics are those of `tasks.masks.mask_losses`: areas [N, K, 3] are the pixels of the
intersection, the prediction and the truth; confusions [N, P, 3] are a true class, a predicted one
and pixels, 0 for padding.

Shapes: N images, K classes, P pairs of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.audit.charts import records
from finetune.audit.sections import CLASSES, Block, Chart, Link, Matrix, Note, ReportSection, Table
from finetune.errors import format_count, listed
from finetune.reports.intervals import Estimate

MOST_CLASSES = 30  # in the table
MOST_IN_MATRIX = 40  # classes; a larger matrix cannot be read
MOST_COLORS = 9  # classes that are told apart in a scatter plot
MOST_POINTS = 1_500  # of a scatter plot; more would overlap
MOST_PAIRS = 15

Pixels = NDArray[np.int64]


def class_section(
    areas: Pixels,
    names: Sequence[str],
    intervals: Mapping[str, Estimate],
    numbers: Sequence[int],
) -> ReportSection:
    """Describe the IoU of each class, by `intervals` {"iou/NAME"} where there are, and by size.

    `numbers` are those of the images [N].
    """
    hits, predicted, true = areas.sum(0).T  # [K] each
    known = np.flatnonzero(true)
    iou = hits / np.maximum(true + predicted - hits, 1)
    order = known[np.argsort(iou[known], kind="stable")].tolist()
    lines: list[list[Any]] = [
        [
            Link(names[n], {"true": names[n]}),
            intervals.get(f"iou/{names[n]}", f"{iou[n]:.4f}"),
            f"{hits[n] / max(predicted[n], 1):.4f}",
            f"{hits[n] / true[n]:.4f}",
            f"{true[n] / true.sum():.2%}",
            int((areas[:, n, 2] > 0).sum()),
        ]
        for n in order[:MOST_CLASSES]
    ]
    note = "Over the pixels of all images together; the intervals are those of other images."
    if len(order) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} of {len(order)} classes with the lowest IoU."
    columns = ["class", "IoU", "precision", "recall", "share of the pixels", "images"]
    blocks: list[Block] = [Table("", columns, lines, note)]
    if absent := _absent(areas, names):
        blocks.append(Note(absent))
    blocks.append(_by_size(areas, names, numbers))
    finding = ""
    if len(order) > 1:
        worst = names[order[0]]
        shown = intervals.get(f"iou/{worst}", f"{iou[order[0]]:.4f}")
        finding = f"{worst!r} has the lowest IoU, {shown}, in {format_count(lines[0][-1], 'image')}"
    return ReportSection(CLASSES, "Classes", blocks, finding)


def _absent(areas: Pixels, names: Sequence[str]) -> str:
    """Return a sentence on classes without true pixels; "" if there are none."""
    absent = np.flatnonzero(areas[:, :, 2].sum(0) == 0).tolist()
    if not absent:
        return ""
    images = (areas[:, absent, 1] > 0).sum(0)
    texts = [f"{names[n]} ({count})" for n, count in zip(absent, images, strict=True)]
    return f"In no true mask, and in how many predicted ones: {listed(texts, 8)}."


def _by_size(areas: Pixels, names: Sequence[str], numbers: Sequence[int]) -> Chart:
    """Draw the IoU of each class of an image against its share of the image."""
    images, classes = np.nonzero(areas[:, :, 2])
    step = -(-len(images) // MOST_POINTS) or 1
    images, classes = images[::step], classes[::step]
    hits, predicted, true = areas[images, classes].T
    data = records(
        share=true / areas[images, :, 2].sum(1),
        IoU=hits / (true + predicted - hits),
        row=[int(numbers[n]) for n in images.tolist()],
        **{"class": [names[n] for n in classes.tolist()]},
    )
    axis = {"format": "~%", "tickCount": 5}
    channels: dict[str, Any] = {
        "x": {
            "field": "share",
            "type": "quantitative",
            "title": "share of the image (log scale)",
            "scale": {"type": "log", "nice": False},
            "axis": axis,
        },
        "y": {"field": "IoU", "type": "quantitative", "scale": {"domain": [0, 1]}},
        "detail": [{"field": name} for name in ("row", "class")],
    }
    if len(names) <= MOST_COLORS:
        channels["color"] = {"field": "class", "type": "nominal", "sort": list(names)}
    mark = {"type": "circle", "opacity": 0.6, "cursor": "pointer", "tooltip": True}
    text = "A point is a class of an image; choose one to see its row."
    if step > 1:
        text += f" 1 of {step} is drawn."
    spec = {"data": {"values": data}, "mark": mark, "encoding": channels}
    return Chart("iou-by-size", "IoU by size", spec, text, {"row": "row"})


def pixel_confusion_section(
    areas: Pixels, confusions: Pixels, names: Sequence[str]
) -> ReportSection:
    """Describe the wrong pixels by true and predicted class."""
    counts = np.diag(areas[:, :, 0].sum(0))
    images, _ = np.nonzero(confusions[:, :, 2])
    true, predicted, pixels = confusions[confusions[:, :, 2] > 0].T
    np.add.at(counts, (true, predicted), pixels)
    wrong = counts - np.diag(counts.diagonal())
    blocks, total, missed = list[Block](), int(areas[:, :, 2].sum()), int(wrong.sum())
    if len(names) <= MOST_IN_MATRIX:
        blocks.append(Matrix("pixel-confusions", "", names, counts.tolist(), unit="pixels"))
    if not missed:
        blocks.append(Note("No pixel is wrong."))
        return ReportSection("confusions", "Confusions", blocks)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [p for p in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[p]]
    of_class = areas[:, :, 2].sum(0)  # with pairs that were not counted
    lines = []
    for a, b in pairs:
        found = len(np.unique(images[(true == a) & (predicted == b)]))
        lines.append(
            [
                names[a],
                names[b],
                f"{wrong[a, b] / missed:.1%}",
                f"{wrong[a, b] / of_class[a]:.1%}",
                Link(str(found), {"true": names[a], "predicted": names[b]}),
            ]
        )
    uncounted = total - int(counts.sum())
    note = (
        f"{uncounted / total:.2%} of the pixels, of rare pairs, are left out." if uncounted else ""
    )
    columns = [
        "true",
        "predicted",
        "share of the wrong pixels",
        "share of the true class",
        "images",
    ]
    blocks.append(Table("Most frequent confusions", columns, lines, note))
    a, b = pairs[0]
    finding = (
        f"{1 - areas[:, :, 0].sum() / total:.1%} of the pixels are wrong; most often {names[a]!r} "
        f"is taken for {names[b]!r} ({wrong[a, b] / of_class[a]:.1%} of its pixels)"
    )
    return ReportSection("confusions", "Confusions", blocks, finding)
