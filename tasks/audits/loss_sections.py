"""Losses of rows whose tokens are predicted: their distribution, and their relation to the length.

Shapes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.audit.charts import BLUE, layered, records
from finetune.audit.sections import Block, Chart, Note, ReportSection
from finetune.reports.intervals import interval

MOST_POINTS = 1_500  # of a scatter plot; more would overlap
WORST_SHARE = 0.1  # of the rows
FEWEST_ROWS = 20  # from which a share of the rows means something

Numbers = NDArray[Any]


def loss_section(sums: Numbers, tokens: Numbers, numbers: Sequence[int]) -> ReportSection:
    """Describe the losses of rows, given as sums [N] over `tokens` [N]."""
    means, step = sums / np.maximum(tokens, 1), -(-len(sums) // MOST_POINTS)
    mean = interval(
        np.stack([sums, tokens], 1).astype(np.float64),
        lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1),
    )
    points = records(
        tokens=tokens[::step], loss=means[::step], row=[int(n) for n in numbers[::step]]
    )
    text = "A point is a row; choose one to see it."
    blocks: list[Block] = [
        Note(
            f"Mean loss per token {mean}, with 95 % bootstrap intervals over rows; perplexity "
            f"{math.exp(min(mean.value, 700.0)):.2f}."
        ),
        Chart("row-losses", "Rows by mean loss per token", _histogram(means)),
        Chart(
            "loss-by-length",
            "Loss by number of tokens",
            layered(points, [_scatter()]),
            f"{text} 1 of {step} is drawn." if step > 1 else text,
            {"row": "row"},
        ),
    ]
    finding = ""
    if len(sums) >= FEWEST_ROWS and sums.sum() > 0:
        worst = np.argsort(-means, kind="stable")[: math.ceil(WORST_SHARE * len(sums))]
        finding = (
            f"the {len(worst)} worst of {len(sums)} rows have "
            f"{sums[worst].sum() / sums.sum():.0%} of the loss, and "
            f"{tokens[worst].sum() / tokens.sum():.0%} of the tokens"
        )
    return ReportSection("losses", "Losses by row", blocks, finding)


def _scatter() -> dict[str, Any]:
    mark = {"type": "circle", "color": BLUE, "opacity": 0.55, "cursor": "pointer", "tooltip": True}
    axes = (("x", "tokens", "tokens with loss"), ("y", "loss", "loss per token"))
    channels: dict[str, Any] = {
        axis: {"field": name, "type": "quantitative", "title": title, "scale": {"zero": False}}
        for axis, name, title in axes
    }
    return {"mark": mark, "encoding": {**channels, "detail": [{"field": "row"}]}}


def _histogram(means: Numbers) -> dict[str, Any]:
    counts, edges = np.histogram(means, bins=min(30, max(5, len(means) // 5)))
    data = records(**{"from": edges[:-1], "to": edges[1:], "rows": counts})
    channels = {
        "x": {
            "field": "from",
            "type": "quantitative",
            "title": "mean loss per token",
            "bin": "binned",
        },
        "x2": {"field": "to"},
        "y": {"field": "rows", "type": "quantitative", "title": "rows"},
    }
    bars = {"mark": {"type": "bar", "color": BLUE, "tooltip": True}, "encoding": channels}
    return layered(data, [bars])
