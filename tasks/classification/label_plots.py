"""Plots of a split: the confusion matrix of labels, the scatter plot of numbers.

Shapes: C classes; rows are true classes, columns predicted ones.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.classification.classification_metrics import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES_COUNTED = 30  # with more, the numbers do not fit into their cells
MOST_CLASSES_DRAWN = 100
LONGEST_NAME = 28  # characters of a tick label


def write_confusion(matrix: Array, names: Sequence[str], folder: Path) -> list[Path]:
    """Write a confusion matrix [C, C] as confusion.csv and, up to 100 classes, confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    table, image = folder / "confusion.csv", folder / "confusion.png"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    if len(names) > MOST_CLASSES_DRAWN:
        return [table]
    with warnings.catch_warnings():
        # Glyphs missing from the font are drawn as boxes; the table has the names.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _draw_confusion(matrix, names).savefig(image, dpi=140, bbox_inches="tight")
    return [table, image]


def _draw_confusion(matrix: Array, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: colors are shares of the true class, numbers count rows."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counted = len(names) <= MOST_CLASSES_COUNTED
    cell = float(np.clip(6 / len(names), 0.42 if counted else 0.2, 1.0))  # inches
    side = cell * len(names)
    # Figure, not pyplot, which would keep every figure alive and use the notebook's backend.
    figure = Figure(figsize=(side, side), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), facecolor="white")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # Square root of the share: on a linear scale, confusions of a few percent would look white.
    cells = axes.pcolormesh(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), edgecolors="white")
    cells.set_linewidth(2 if counted else 0.5)
    axes.invert_yaxis()
    axes.tick_params(length=0, labelcolor="#333333")
    axes.spines[:].set_visible(False)
    rows, right = int(matrix.sum()), int(np.trace(matrix))
    title = f"{right:,} of {rows:,} right ({right / max(rows, 1):.1%})"
    axes.set_title(title, loc="left", pad=12, color="#333333")
    _write_names(axes, names, cell)
    if counted:
        _write_counts(axes, matrix, shares, cell)
    else:
        bar = figure.colorbar(cells, cax=figure.add_axes((1 + 0.2 / side, 0, 0.15 / side, 1)))
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0%", "5%", "20%", "50%", "100%"])
        bar.set_label("share of the true class", color="#777777")
        bar.ax.tick_params(length=0, labelcolor="#333333")
        bar.outline.set_visible(False)
    return figure


def _write_names(axes: Axes, names: Sequence[str], cell: float) -> None:
    plain = [" ".join(name.split()) for name in names]
    # Shorten in the middle, because names with a common beginning differ at their ends.
    short = [f"{name[:17]}…{name[-9:]}" if len(name) > LONGEST_NAME else name for name in plain]
    size = float(np.clip(40 * cell, 6.5, 10))  # points
    at = np.arange(len(names)) + 0.5
    # parse_math=False: a "$" in a name is not TeX.
    axes.set_yticks(at, short, fontsize=size, parse_math=False)
    wide = max(len(name) for name in short) * size * 0.6 > 72 * cell
    rotated: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if len(names) > MOST_CLASSES_COUNTED:
        rotated = {"rotation": 90}  # slanted names would overlap
    axes.set_xticks(at, short, fontsize=size, parse_math=False, **(rotated if wide else {}))
    axes.set_xlabel("predicted", color="#777777", labelpad=8)
    axes.set_ylabel("true", color="#777777", labelpad=8)


def _write_counts(axes: Axes, matrix: Array, shares: Array, cell: float) -> None:
    digits = len(f"{matrix.max():,}")
    size = min(11.0, 72 * 0.85 * cell / (0.62 * digits))  # points, so that the longest fits
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.35 else "#333333" if count else "#aaaaaa"
        at = (column + 0.5, row + 0.5)
        axes.text(*at, f"{count:,}", ha="center", va="center", fontsize=size, color=color)


def write_scatter(true: Array, predicted: Array, folder: Path) -> list[Path]:
    """Write true against predicted numbers [N], and the errors, as scatter.png."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 4.5), facecolor="white", layout="constrained")
    values, errors = figure.subplots(1, 2)
    style: dict[str, Any] = {"s": 12, "alpha": 0.5, "linewidths": 0}
    line: dict[str, Any] = {"color": "#999999", "linewidth": 1, "zorder": 0}
    values.scatter(true, predicted, **style)
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    values.plot(ends, ends, **line)
    errors.scatter(true, predicted - true, **style)
    errors.axhline(0, **line)
    for axes, title in ((values, "predicted"), (errors, "error (predicted - true)")):
        axes.set_xlabel("true", color="#777777")
        axes.set_ylabel(title, color="#777777")
        axes.spines[["top", "right"]].set_visible(False)
    rmse = float(np.sqrt(np.mean((predicted - true) ** 2)))
    figure.suptitle(f"{len(true):,} rows, RMSE {rmse:.4g}", x=0.01, ha="left", color="#333333")
    path = folder / "scatter.png"
    figure.savefig(path, dpi=140)
    return [path]
