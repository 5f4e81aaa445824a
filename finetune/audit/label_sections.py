"""Sections of any task with probabilities of labels: confusions, thresholds, reliability.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune.audit.charts import (
    BLUE,
    GRAY,
    POINTS,
    chooser,
    diagonal_of,
    encoding,
    layered,
    line_chart,
    records,
)
from finetune.audit.evidence import EXTRA, MISSED, Evidence, mistaken_labels
from finetune.audit.sections import Block, Chart, Link, Matrix, Note, ReportSection, Table
from finetune.errors import format_count
from finetune.reporting.metric_tables import MOST_LABELS
from finetune.reports.intervals import Array, Estimate
from finetune.reports.reliability import Bin, calibration_error, reliability_bins
from finetune.task_parts.views import LabelScores

MOST_IN_MATRIX = 40  # labels; a larger matrix cannot be read
MOST_CURVES = 12  # labels, those with most rows; more lines cannot be told apart
MOST_PAIRS = 15


def label_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """Describe how labels are confused, and what their probabilities are worth."""
    scores = evidence.scores
    if scores is None or not len(scores.scores):
        return
    if scores.exclusive:
        yield _confusions(scores)
    else:
        yield _label_mistakes(evidence, scores)
    yield _thresholds(scores)
    yield _reliability(scores)


# ---- confusions


def _confusions(scores: LabelScores) -> ReportSection:
    names = [str(name) for name in scores.names]
    true, predicted = scores.truth.argmax(1), scores.scores.argmax(1)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (true, predicted), 1)
    blocks: list[Block] = []
    if len(names) <= MOST_IN_MATRIX:
        blocks.append(Matrix("confusion-matrix", "", names, counts.tolist()))
    else:
        blocks.append(
            Note(f"{len(names)} labels are too many for a matrix; finetune evaluate writes it.")
        )
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [
        (a, b) for a, b in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[a, b]
    ]
    if not pairs:
        return ReportSection("confusions", "Confusions", blocks, "No row has a wrong label.")
    lines = [
        [
            names[a],
            names[b],
            Link(str(wrong[a, b]), {"true": names[a], "predicted": names[b]}),
            f"{wrong[a, b] / counts[a].sum():.1%}",
        ]
        for a, b in pairs
    ]
    columns = ["true", "predicted", "rows", "share of the true label"]
    blocks.append(Table("Most frequent confusions", columns, lines))
    (a, b), total = pairs[0], int(wrong.sum())
    finding = (
        f"{format_count(total, 'row')} of {len(true)} wrong; most often {names[a]!r} is taken for "
        f"{names[b]!r} ({format_count(int(wrong[a, b]), 'row')})"
    )
    return ReportSection("confusions", "Confusions", blocks, finding)


def _label_mistakes(evidence: Evidence, scores: LabelScores) -> ReportSection:
    """Count the labels that were missed, and those that were predicted and are not true."""
    counts = {kind: Counter[str]() for kind in (MISSED, EXTRA)}
    for outcome in evidence.outcomes:
        for kind, labels in mistaken_labels(outcome).items():
            counts[kind].update(labels)
    support = scores.truth.sum(0).tolist()
    lines = [
        [name, rows, *(Link(str(counts[kind][name]), {kind: name}) for kind in counts)]
        for name, rows in zip(map(str, scores.names), support, strict=True)
    ]
    lines.sort(key=lambda line: -sum(count[line[0]] for count in counts.values()))
    cut = f"The {MOST_LABELS} of {len(lines)} labels with the most mistakes."
    note = cut if len(lines) > MOST_LABELS else ""
    missed, extra = (count.total() for count in counts.values())
    finding = f"{missed} labels missed, {extra} predicted that are not true"
    table = Table("", ["label", "rows", MISSED, EXTRA], lines[:MOST_LABELS], note)
    return ReportSection("confusions", "Mistaken labels", [table], finding)


# ---- thresholds


def _thresholds(scores: LabelScores) -> ReportSection:
    support = scores.truth.sum(0)
    usable = [n for n in np.argsort(-support, kind="stable") if 0 < support[n] < len(scores.truth)]
    chosen = sorted(usable[:MOST_CURVES])
    if not chosen:
        text = "Every label has all of the rows or none of them: there is no threshold to choose."
        return ReportSection("thresholds", "Thresholds", [Note(text)])
    names = [str(scores.names[n]) for n in chosen]
    tables = [threshold_table(scores.scores[:, n], scores.truth[:, n]) for n in chosen]
    lines = [
        {**line, "label": name}
        for name, (threshold, precision, recall) in zip(names, tables, strict=True)
        for line in records(threshold=threshold, precision=precision, recall=recall)
    ]
    note = ""
    if len(usable) > len(chosen):
        note = f"The {len(chosen)} of {len(scores.names)} labels with the most rows."
    curve = line_chart(lines, "recall", "precision", "label", unit=True)
    blocks: list[Block] = [
        Chart("precision-recall", "Precision and recall", curve, note),
        Chart("thresholds", "By threshold", _by_threshold(lines, names)),
    ]
    if scores.exclusive:
        text = (
            "Accuracy if only rows above a confidence are answered: the share of rows that are "
            "then answered is their coverage."
        )
        data = coverage_table(scores)
        chart = line_chart(data, "coverage", "accuracy")
        blocks.append(Chart("coverage", "Accuracy by coverage", chart, text))
    return ReportSection("thresholds", "Thresholds", blocks)


def threshold_table(scores: Array, truth: Array) -> tuple[Array, Array, Array]:
    """Return thresholds and the precision and recall of rows at or above them, all [P].

    Thresholds are scores that occur, at most POINTS of them, in descending order.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], truth[order].cumsum()
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of rows with equal scores
    if len(last) > POINTS:
        last = last[np.unique(np.linspace(0, len(last) - 1, POINTS).round().astype(int))]
    return ranked[last], hits[last] / (last + 1), hits[last] / max(hits[-1], 1)


def _by_threshold(lines: Sequence[dict[str, object]], names: Sequence[str]) -> dict[str, object]:
    folded = [
        {"transform": [{"filter": "datum.label == label"}, {"fold": ["precision", "recall"]}]},
    ]
    mark = {"type": "line", "strokeWidth": 2, "interpolate": "step-after", "tooltip": True}
    channels = encoding("threshold", "value", "key", {"domain": [0, 1]}, unit=True)
    chart = layered(lines, [{**folded[0], "mark": mark, "encoding": channels}])
    return {**chart, "params": [chooser("label", names)]}


def coverage_table(scores: LabelScores) -> list[dict[str, Any]]:
    """Return coverage and accuracy of rows at or above each confidence, the highest first."""
    best = scores.scores.argmax(1)
    confidence = scores.scores.max(1)
    right = np.take_along_axis(scores.truth, best[:, None], 1)[:, 0]
    threshold, accuracy, _ = threshold_table(confidence, right)
    coverage = (confidence[None, :] >= threshold[:, None]).mean(1)
    return records(coverage=coverage, accuracy=accuracy, confidence=threshold)


# ---- reliability


def _reliability(scores: LabelScores) -> ReportSection:
    each = "Rows" if scores.exclusive else "Pairs of a row and a label"
    histogram = Chart("confidence", "Confidence", _histogram(scores))
    error, bins = calibration_error(scores), reliability_bins(scores)
    return reliability_section(error, bins, each, [histogram])


def reliability_section(
    error: Estimate, bins: Sequence[Bin], each: str, more: Sequence[Block] = ()
) -> ReportSection:
    """Draw a reliability diagram of bins; `each` names, in the plural, what they count."""
    confidence, accuracy, rows = (np.array(column) for column in zip(*bins, strict=True))
    data = records(confidence=confidence, accuracy=accuracy, rows=rows)
    channels = encoding("confidence", "accuracy", None, {"domain": [0, 1]}, unit=True)
    tooltip = [{"field": name, "type": "quantitative"} for name in data[0]]
    line = {"mark": {"type": "line", "color": BLUE}, "encoding": channels}
    circles = {"type": "circle", "color": BLUE, "opacity": 1, "size": 70}
    points = {"mark": circles, "encoding": {**channels, "tooltip": tooltip}}
    text = (
        f"{each} in bins of equal size by confidence: on the dashed line, confidence is the share "
        "that is right. Below it, the model is too sure."
    )
    chart = layered(data, [diagonal_of(0, 1), line, points])
    gap = float((rows * (confidence - accuracy)).sum() / rows.sum())
    lean = "too sure" if gap > 0 else "not sure enough"
    blocks: list[Block] = [
        Note(f"Expected calibration error (ECE) {error}, with its 95 % bootstrap interval."),
        Chart("reliability", "Reliability diagram", chart, text),
        *more,
    ]
    finding = f"calibration error {error}"
    if error.low > 0.02:
        finding += f": on average {lean} by {abs(gap):.1%} (see finetune calibrate)"
    return ReportSection("reliability", "Reliability", blocks, finding)


def _histogram(scores: LabelScores) -> dict[str, object]:
    """Count right and wrong rows, or pairs of a row and a label, by confidence."""
    if scores.exclusive:
        best = scores.scores.argmax(1)[:, None]
        values = np.take_along_axis(scores.scores, best, 1)[:, 0]
        right, words = np.take_along_axis(scores.truth, best, 1)[:, 0], ("right", "wrong")
    else:
        values, right = scores.scores.ravel(), scores.truth.ravel()
        words = ("has the label", "lacks it")
    edges = np.linspace(0, 1, 21)
    data = [
        {"from": float(a), "to": float(b), "rows": int(count), "outcome": word}
        for word, mask in zip(words, (right, ~right), strict=True)
        for a, b, count in zip(edges, edges[1:], np.histogram(values[mask], edges)[0], strict=False)
        if count
    ]
    channels: dict[str, Any] = {
        "x": {"field": "from", "type": "quantitative", "title": "confidence", "bin": "binned"},
        "x2": {"field": "to"},
        "y": {"field": "rows", "type": "quantitative", "title": "rows"},
        "color": {"field": "outcome", "type": "nominal", "sort": None},
    }
    channels["color"]["scale"] = {"domain": list(words), "range": [BLUE, "#d9822b"]}
    mark = {"type": "bar", "tooltip": True, "stroke": GRAY, "strokeWidth": 0}
    return layered(data, [{"mark": mark, "encoding": channels}])
