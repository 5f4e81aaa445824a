"""Pictures of a run: losses, the learning rate and metrics over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def plot_history(lines: Sequence[dict[str, Any]]) -> Figure:
    """Three panels from the lines of metrics.jsonl: loss, learning rate, held-out metrics."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    loss, rate, metrics = figure.subplots(1, 3)
    splits = list(dict.fromkeys(line["split"] for line in lines))
    for split in splits:
        _draw(loss, lines, split, "loss", split)
    _draw(rate, lines, "train", "lr", "train")
    held_out = [split for split in splits if split != "train"]
    shown = ("accuracy", "f1_macro", "f1_micro", "pearson", "rmse")
    for split in held_out:
        for name in shown:
            _draw(metrics, lines, split, name, f"{split} {name}")
    for axes, title in ((loss, "loss"), (rate, "learning rate"), (metrics, "metrics")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(axes.get_lines()) > 1:
            axes.legend(frameon=False)
    return figure


def _draw(axes: Axes, lines: Sequence[dict[str, Any]], split: str, name: str, label: str) -> None:
    found = [line for line in lines if line["split"] == split and name in line]
    if found:
        steps, values = [line["step"] for line in found], [line[name] for line in found]
        marker = "o" if len(found) < 30 else None
        axes.plot(steps, values, label=label, marker=marker, markersize=3)
