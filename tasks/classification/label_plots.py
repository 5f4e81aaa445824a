"""Plots of a split: the confusion matrix of labels, the scatter plot of numbers.

The matrix is drawn with Pillow: importing Matplotlib for it took a tenth of a short run.

Shapes: C classes; rows are true classes, columns predicted ones.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.classification.classification_metrics import Array

MOST_CLASSES_COUNTED = 30  # with more, the numbers do not fit into their cells
MOST_CLASSES_DRAWN = 100
MOST_CLASSES_CROSSED = 1000  # the table of 10,000 classes would have 200 MB
LONGEST_NAME = 28  # characters of a name beside the matrix
DPI, PAD = 140, 16  # PAD is a distance in pixels
DARK, PALE = "#333333", "#777777"
# Blues of ColorBrewer, as Matplotlib has them.
BLUES = (
    *((247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214)),
    *((66, 146, 198), (33, 113, 181), (8, 81, 156), (8, 48, 107)),
)


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
    # Letters missing from the font are drawn as boxes; the table has the names.
    _draw_confusion(matrix, names).save(image)
    return [table, image]


def write_confused_pairs(
    true: Array, predicted: Array, names: Sequence[str], folder: Path
) -> list[Path]:
    """Write the pairs of true and predicted class [N] that occur, as confused_pairs.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs, counts = np.unique(np.stack([true, predicted], axis=1), axis=0, return_counts=True)
    path = folder / "confused_pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true", "predicted", "rows"])
        for at in np.argsort(-counts, kind="stable").tolist():
            one, other = pairs[at].tolist()
            writer.writerow([names[one], names[other], int(counts[at])])
    return [path]


def _draw_confusion(matrix: Array, names: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix: colors are shares of the true class, numbers count rows."""
    counted = len(names) <= MOST_CLASSES_COUNTED
    inches = float(np.clip(6 / len(names), 0.42 if counted else 0.2, 1.0))
    cell = round(inches * DPI)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    grid = _draw_cells(shares, cell, gap=4 if counted else 1)
    if counted:
        _write_counts(grid, matrix, shares, cell)
    short = [_shorten(name) for name in names]
    font = _font(float(np.clip(40 * inches, 6.5, 10)))
    widest = max(font.getlength(name) for name in short)
    # Slanted names of many classes would overlap.
    angle = 0 if widest <= 0.95 * cell else 45 if counted else 90
    rows, right = int(matrix.sum()), int(np.trace(matrix))
    title = f"{right:,} of {rows:,} right ({right / max(rows, 1):.1%})"
    texts = [*_names_of_rows(short, font, cell), *_names_of_columns(short, font, cell, angle)]
    texts.append(_Text.of(title, _font(12), DARK, (0, -PAD), "left", "bottom"))
    left, bottom = (min(text.x for text in texts), max(text.bottom for text in texts))
    middle = grid.width // 2
    texts += [
        _Text.of("predicted", _font(10), PALE, (middle, bottom + PAD // 2), "center", "top"),
        _Text.of("true", _font(10), PALE, (left - PAD // 2, middle), "right", "center", 90),
    ]
    parts = [(0, 0, grid)]
    if not counted:
        bar, labels = _draw_bar(grid.height)
        parts.append((grid.width + 2 * PAD, 0, bar))
        texts += [text.moved(grid.width + 2 * PAD) for text in labels]
    return _compose(parts, texts)


def _draw_cells(shares: Array, cell: int, gap: int) -> Image.Image:
    """Draw a square of `cell` pixels for each share, with white gaps in between."""
    pixels = _blue(shares).repeat(cell, 0).repeat(cell, 1)  # [C * cell, C * cell, 3]
    inner = np.arange(len(shares)) * cell
    for offset in range(-(gap // 2), gap - gap // 2):
        lines = inner[1:] + offset
        pixels[lines], pixels[:, lines] = 255, 255
    return Image.fromarray(pixels)


def _blue(shares: Array) -> np.ndarray:
    """Return colors, uint8 [..., 3], of shares [...].

    They grow with the square root of a share: on a linear scale, confusions of a few percent would
    look white.
    """
    at = np.sqrt(np.clip(shares, 0, 1)) * (len(BLUES) - 1)
    channels = [
        np.interp(at, np.arange(len(BLUES)), channel) for channel in zip(*BLUES, strict=True)
    ]
    return np.stack(channels, -1).round().astype(np.uint8)


def _shorten(name: str) -> str:
    """Return a name on one line, shortened in the middle: a common beginning tells nothing."""
    plain = " ".join(name.split())
    return f"{plain[:17]}…{plain[-9:]}" if len(plain) > LONGEST_NAME else plain


def _write_counts(grid: Image.Image, matrix: Array, shares: Array, cell: int) -> None:
    draw, digits = ImageDraw.Draw(grid), len(f"{matrix.max():,}")
    # Such that the longest number fits.
    font = _font(min(11.0, 0.85 * cell / (0.62 * digits) * 72 / DPI))
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.35 else DARK if count else "#aaaaaa"
        at = (column + 0.5) * cell, (row + 0.5) * cell
        draw.text(at, f"{count:,}", fill=color, font=font, anchor="mm")


@dataclass(frozen=True)
class _Text:
    """A text as a mask of pixels, and its place relative to the upper left corner of the grid."""

    mask: Image.Image
    color: str
    x: int
    y: int

    @classmethod
    def of(
        cls,
        text: str,
        font: ImageFont.FreeTypeFont,
        color: str,
        at: tuple[float, float],
        across: str,
        down: str,
        angle: int = 0,
    ) -> _Text:
        """Return a text whose left, center or right, and top, center or bottom, is `at`."""
        mask = Image.new("L", (max(1, math.ceil(font.getlength(text))), sum(font.getmetrics())))
        ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
        mask = mask.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)
        share = {"left": 0.0, "top": 0.0, "center": 0.5, "right": 1.0, "bottom": 1.0}
        x, y = at[0] - share[across] * mask.width, at[1] - share[down] * mask.height
        return cls(mask, color, round(x), round(y))

    @property
    def bottom(self) -> int:
        return self.y + self.mask.height

    def moved(self, right: int) -> _Text:
        """Return the text at a place further to the right."""
        return replace(self, x=self.x + right)


def _names_of_rows(
    names: Sequence[str], font: ImageFont.FreeTypeFont, cell: int
) -> Iterator[_Text]:
    for row, name in enumerate(names):
        yield _Text.of(name, font, DARK, (-PAD // 2, (row + 0.5) * cell), "right", "center")


def _names_of_columns(
    names: Sequence[str], font: ImageFont.FreeTypeFont, cell: int, angle: int
) -> Iterator[_Text]:
    """Yield the names below the grid; those that are slanted end below their column."""
    top, slant = len(names) * cell + PAD // 2, sum(font.getmetrics()) / math.sqrt(8)
    for column, name in enumerate(names):
        middle = (column + 0.5) * cell
        at, across = ((middle + slant, top), "right") if angle == 45 else ((middle, top), "center")
        yield _Text.of(name, font, DARK, at, across, "top", angle)


def _draw_bar(height: int) -> tuple[Image.Image, list[_Text]]:
    """Draw the scale of the colors; return it and its labels."""
    roots = np.linspace(1, 0, height)[:, None].repeat(PAD, 1)
    ticks = [0, 0.05, 0.2, 0.5, 1]
    labels = [
        _Text.of(f"{tick:.0%}", _font(10), DARK, (1.5 * PAD, y), "left", "center")
        for tick, y in zip(ticks, (1 - np.sqrt(ticks)) * (height - 1), strict=True)
    ]
    at = max(text.x + text.mask.width for text in labels) + PAD // 2, height / 2
    labels.append(_Text.of("share of the true class", _font(10), PALE, at, "left", "center", 90))
    return Image.fromarray(_blue(roots**2)), labels


def _compose(parts: Sequence[tuple[int, int, Image.Image]], texts: Sequence[_Text]) -> Image.Image:
    """Put pictures and texts at their places on a white picture with a margin."""
    boxes = [(x, y, picture) for x, y, picture in parts]
    boxes += [(text.x, text.y, text.mask) for text in texts]
    left, top = min(x for x, _, _ in boxes) - PAD, min(y for _, y, _ in boxes) - PAD
    right = max(x + picture.width for x, _, picture in boxes) + PAD
    bottom = max(y + picture.height for _, y, picture in boxes) + PAD
    canvas = Image.new("RGB", (right - left, bottom - top), "white")
    for x, y, picture in parts:
        canvas.paste(picture, (x - left, y - top))
    for text in texts:
        canvas.paste(text.color, (text.x - left, text.y - top), text.mask)
    return canvas


@functools.cache
def _font(points: float) -> ImageFont.FreeTypeFont:
    """Load the font that Matplotlib brings, which has more letters than Pillow's."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None, "Matplotlib is required"
    assert spec.origin is not None, "Matplotlib is a package"
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, round(points * DPI / 72))


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
