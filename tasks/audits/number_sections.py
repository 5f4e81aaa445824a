"""Residuals of a regression: errors against the true and the predicted number.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.audit.charts import BLUE, GRAY, diagonal_of, layered, records
from finetune.audit.sections import Block, Chart, Note, ReportSection
from finetune.reports.intervals import mean_interval

MOST_POINTS = 1_500  # of a scatter plot; more would overlap


def residual_section(
    true: np.ndarray, predicted: np.ndarray, numbers: Sequence[int]
) -> ReportSection:
    """Describe the errors of predicted numbers [N]; a click on a point shows its row."""
    error = (predicted - true).astype(np.float64)
    bias, size = mean_interval(error), mean_interval(np.abs(error))
    step = -(-len(true) // MOST_POINTS)
    points = records(
        true=true[::step],
        predicted=predicted[::step],
        error=error[::step],
        row=[int(number) for number in numbers[::step]],
    )
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    zero = {"mark": {"type": "rule", "color": GRAY}, "encoding": {"y": {"datum": 0}}}
    links = {"row": "row"}
    note = f"1 of {step} rows is drawn." if step > 1 else ""
    blocks: list[Block] = [
        Note(f"Mean error {bias}, mean absolute error {size}, with 95 % bootstrap intervals."),
        Chart(
            "predicted",
            "Predicted against true",
            layered(points, [diagonal_of(low, high), _scatter("true", "predicted")]),
            note,
            links,
        ),
        Chart(
            "residuals",
            "Error by prediction",
            layered(points, [zero, _scatter("predicted", "error")]),
            "Errors that grow or lean to one side name a range that the model does not fit.",
            links,
        ),
        Chart("errors", "Errors", _histogram(error)),
    ]
    finding = ""
    if bias.low > 0 or bias.high < 0:
        finding = f"predictions are too {'high' if bias.value > 0 else 'low'} by {bias} on average"
    return ReportSection("residuals", "Residuals", blocks, finding)


def _scatter(x: str, y: str) -> dict[str, object]:
    mark = {"type": "circle", "color": BLUE, "opacity": 0.55, "cursor": "pointer", "tooltip": True}
    channels = {
        axis: {"field": name, "type": "quantitative", "title": name, "scale": {"zero": False}}
        for axis, name in (("x", x), ("y", y))
    }
    detail = [{"field": name} for name in ("row", "true", "predicted", "error")]
    return {"mark": mark, "encoding": {**channels, "detail": detail}}


def _histogram(error: np.ndarray) -> dict[str, object]:
    counts, edges = np.histogram(error, bins=min(30, max(5, len(error) // 10)))
    data = records(**{"from": edges[:-1], "to": edges[1:], "rows": counts})
    channels = {
        "x": {"field": "from", "type": "quantitative", "title": "error", "bin": "binned"},
        "x2": {"field": "to"},
        "y": {"field": "rows", "type": "quantitative", "title": "rows"},
    }
    return layered(
        data, [{"mark": {"type": "bar", "color": BLUE, "tooltip": True}, "encoding": channels}]
    )
