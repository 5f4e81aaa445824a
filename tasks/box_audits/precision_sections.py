"""Sections on the precision and recall of a detector: by class, confidence, overlap and size.

Precision and recall are those of the COCO protocol, at an IoU of 0.5 where none is named.

Shapes: I IoU thresholds of 0.50 to 0.95, R recalls of 0 to 1, C classes, A sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from finetune.audit.charts import GRAY, encoding, layered, line_chart, records
from finetune.audit.sections import CLASSES, Block, Chart, Note, ReportSection, Table
from finetune.reporting.console import format_value
from finetune.reports.intervals import Estimate
from tasks.box_audits.error_sections import FATES, stacked_fates
from tasks.box_audits.judged_boxes import Array, JudgedBoxes
from tasks.box_audits.mended_precision import RECALLS
from tasks.box_audits.threshold_curves import Curve, threshold_curve

MOST_CURVES, MOST_CLASSES = 12, 30
OVERLAPS = np.linspace(0.5, 0.95, 10)
SIZES = ("all", "small", "medium", "large")
SIDES = {"small": "below 32", "medium": "32 to 96", "large": "96 or more"}
"""COCO's sizes: square root of the area of an object in pixels."""
_EDGES = (0, 16, 32, 64, 96, 128, 256, 512)
_STEPS = np.arange(0.01, 1.0, 0.01)  # thresholds of a chart


def box_class_section(
    judged: JudgedBoxes,
    precision: Array,
    names: Sequence[str],
    intervals: Mapping[str, Estimate],
) -> ReportSection:
    """Describe each class by its curve and its AP; `precision` [I, R, C, A], -1 where unknown."""
    objects = np.bincount(judged.true_labels, minlength=len(names))
    known = [label for label in np.argsort(-objects, kind="stable") if objects[label]]
    data, lines = list[dict[str, Any]](), list[list[Any]]()
    for label in known:
        values = precision[0, :, label, 0]
        reached = values > 0
        if len(lines) < MOST_CURVES:
            own = records(recall=RECALLS[reached], precision=values[reached])
            data += [{**point, "class": names[label]} for point in own]
        lines.append(_class_line(judged, precision, label, names[label], intervals))
        lines[-1].insert(1, int(objects[label]))
    weakest = sorted(lines, key=lambda line: line[2] if isinstance(line[2], tuple) else (line[2],))
    note = "Best F1: the highest that any threshold of the score gives for the class, which is "
    note += "optimistic, since the threshold was chosen on these rows."
    if len(lines) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} of {len(lines)} classes with the lowest AP."
    columns = ["class", "objects", "AP", "AP50", "AP75", "best F1", "at a score of"]
    shown = [[_shown(value) for value in line] for line in weakest[:MOST_CLASSES]]
    curves = line_chart(data, "recall", "precision", "class", unit=True)
    cut = f"The {MOST_CURVES} classes with the most objects." if len(known) > MOST_CURVES else ""
    chart = Chart("precision-recall", "Precision and recall by class", curves, cut)
    return ReportSection(CLASSES, "Precision by class", [chart, Table("", columns, shown, note)])


def _class_line(
    judged: JudgedBoxes,
    precision: Array,
    label: int,
    name: str,
    intervals: Mapping[str, Estimate],
) -> list[Any]:
    curve = threshold_curve(judged, label)
    best = curve.best
    return [
        name,
        intervals.get(f"ap/{name}", _mean(precision[:, :, label, 0])),
        _mean(precision[0, :, label, 0]),
        _mean(precision[5, :, label, 0]),
        0.0 if best is None else curve.at(best)[2],
        "none" if best is None else best,
    ]


def _shown(value: Any) -> Any:
    return format_value(value) if isinstance(value, float) else value


def _mean(values: Array) -> float:
    """Return the mean of known values; the protocol marks the others with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def confidence_section(judged: JudgedBoxes, threshold: float) -> ReportSection:
    """Describe precision, recall and F1 over thresholds of the score, all classes together."""
    curve = threshold_curve(judged)
    best = curve.best
    title = "Confidence"
    if best is None:
        note = Note("No detection is correct at any threshold of the score.")
        return ReportSection("confidence", title, [note])
    lines = [
        [text, f"{score:.3f}", *(_shown(value) for value in curve.at(score))]
        for text, score in (("as predicted", threshold), ("best F1", best))
    ]
    own, highest = curve.at(threshold)[2], curve.at(best)[2]
    finding = f"F1 is {own:.3f} at score_threshold={threshold:g}"
    if highest - own > 0.01:
        finding += f"; the best is {highest:.3f}, at {best:.2f}"
    text = (
        "All classes together. Dashed line: the threshold that predict uses. Solid line: the "
        "best F1 on these rows; to try it on others: finetune evaluate RUN DATA score_threshold=..."
    )
    blocks: list[Block] = [
        Chart("confidence", "By threshold of the score", _by_score(curve, threshold, best), text),
        Table("", ["threshold", "score", "precision", "recall", "F1"], lines),
    ]
    return ReportSection("confidence", title, blocks, finding)


def _by_score(curve: Curve, threshold: float, best: float) -> dict[str, Any]:
    points = [(step, curve.at(step)) for step in _STEPS]
    data = [
        {"score": round(float(step), 4), "value": round(value, 5), "measure": measure}
        for step, values in points
        for measure, value in zip(("precision", "recall", "F1"), values, strict=True)
        if not np.isnan(values[0])
    ]
    channels = encoding("score", "value", "measure", {"domain": [0, 1]}, unit=True)
    channels["y"]["title"] = None
    mark = {"type": "line", "strokeWidth": 2, "tooltip": True}
    lines = {"mark": mark, "encoding": channels}
    rules = [
        {
            "mark": {"type": "rule", "color": GRAY, **dash},
            "encoding": {"x": {"datum": place, "type": "quantitative"}},
        }
        for place, dash in ((threshold, {"strokeDash": [4, 4]}), (best, {}))
    ]
    return layered(data, [lines, *rules])


def size_section(
    judged: JudgedBoxes,
    precision: Array,
    recall: Array,
    threshold: float,
    intervals: Mapping[str, Estimate],
) -> ReportSection:
    """Describe AP by overlap and by size; `precision` [I, R, C, A], `recall` [I, C, A]."""
    by_overlap = [
        {"IoU": round(float(overlap), 2), "AP": round(value, 5), "size": size}
        for area, size in enumerate(SIZES)
        for index, overlap in enumerate(OVERLAPS)
        if not np.isnan(value := _mean(precision[index, :, :, area]))
    ]
    chart = line_chart(by_overlap, "IoU", "AP", "size", zero=True, points=True)
    sides, shown = np.sqrt(judged.true_areas), judged.of_score(threshold)
    lines = []
    for area, (size, text) in enumerate(SIDES.items(), start=1):
        low, high = (0, 32, 96, np.inf)[area - 1 : area + 1]
        own = (sides >= low) & (sides < high)
        if own.any():
            ap = _mean(precision[:, :, :, area])
            found = int(shown.found[own].sum())
            lines.append(
                [
                    f"{size} ({text})",
                    int(own.sum()),
                    f"{found} ({found / own.sum():.1%})",
                    intervals.get(f"ap_{size}", _shown(ap)),
                    _shown(_mean(recall[:, :, area])),
                ]
            )
    columns = ["size, pixels", "objects", f"found from {threshold:g} on", "AP", "AR"]
    fates = _by_side(shown, sides)
    text = "The square root of an object's area, in pixels of its image."
    blocks: list[Block] = [
        Chart("ap-by-overlap", "AP by the IoU that counts as found", chart),
        Chart("objects-by-side", "What became of the objects, by size", fates, text),
        Table("", columns, lines),
    ]
    at = {overlap: _mean(precision[index, :, :, 0]) for index, overlap in ((0, "0.5"), (5, "0.75"))}
    finding = f"AP is {at['0.5']:.3f} at an IoU of 0.5, {at['0.75']:.3f} at 0.75"
    return ReportSection("sizes", "Overlap and size", blocks, finding)


def _by_side(shown: JudgedBoxes, sides: Array) -> dict[str, Any]:
    bins = np.digitize(sides, _EDGES) - 1
    names = ["below 16", *(f"{low} to {high}" for low, high in pairwise(_EDGES[1:]))]
    names.append(f"{_EDGES[-1]} or more")
    data = []
    for place in np.unique(bins).tolist():
        fates = shown.outcomes[bins == place].tolist()
        name = f"{names[place]} ({len(fates)})"
        data += [
            {"side": name, "outcome": kind, "objects": fates.count(kind)}
            for kind in FATES
            if kind in fates
        ]
    return stacked_fates(data, "side")
