"""Plots of a run: losses, learning rate and metrics over the training steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.reporting.metric_tables import overall

MOST_CURVES = 4  # metrics per split; more would overlap


class Drawing(Figure):
    """Figure that a notebook displays without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


def plot_history(lines: Sequence[dict[str, Any]]) -> Drawing:
    """Plot the lines of metrics.jsonl in three panels: loss, learning rate, held-out metrics."""
    figure = Drawing(figsize=(12, 3.5), layout="constrained")
    loss, rate, metrics = figure.subplots(1, 3)
    splits = list(dict.fromkeys(line["split"] for line in lines))
    for split in splits:
        _draw(loss, lines, split, "loss", split)
    _draw(rate, lines, "train", "lr", "train")
    for split in splits:
        if split != "train":
            for name in plotted_metrics(lines, split):
                _draw(metrics, lines, split, name, f"{split} {name}")
    for axes, title in ((loss, "loss"), (rate, "learning rate"), (metrics, "metrics")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(axes.get_lines()) > 1:
            axes.legend(frameon=False)
    return figure


def plotted_metrics(lines: Sequence[dict[str, Any]], split: str) -> list[str]:
    """Return the first metrics of a split, without losses and metrics of single labels."""
    line = next(line for line in lines if line["split"] == split)
    numbers = {name: value for name, value in line.items() if name not in ("step", "split")}
    names = [n for n in overall(numbers) if not n.startswith("loss") and "/" not in n]
    return names[:MOST_CURVES]


def _draw(axes: Axes, lines: Sequence[dict[str, Any]], split: str, name: str, label: str) -> None:
    points = [line for line in lines if line["split"] == split and name in line]
    if points:
        steps, values = [line["step"] for line in points], [line[name] for line in points]
        marker = "o" if len(points) < 30 else None
        axes.plot(steps, values, label=label, marker=marker, markersize=3)
