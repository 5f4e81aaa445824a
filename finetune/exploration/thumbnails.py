"""Rows that are typical of a cluster, and mosaics of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.audit.shown_rows import SIDE
from finetune.io.files import atomic

_COLUMNS, _ROWS = 8, 4  # of a mosaic


def choose_typical(
    points: np.ndarray, clusters: np.ndarray, centers: np.ndarray
) -> list[list[int]]:
    """Return the rows of each cluster that are nearest to its center, as many as a mosaic shows."""
    chosen = []
    for number, center in enumerate(centers):
        (members,) = np.nonzero(clusters == number)
        distances = np.linalg.norm(points[members] - center, axis=1)
        order = np.argsort(distances, kind="stable")[: _COLUMNS * _ROWS]
        chosen.append(members[order].tolist())
    return chosen


def save_mosaic(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures side by side to a PNG file."""
    rows = -(-len(pictures) // _COLUMNS)
    mosaic = Image.new("RGB", (_COLUMNS * SIDE, rows * SIDE), "white")
    for number, picture in enumerate(pictures):
        mosaic.paste(picture, (number % _COLUMNS * SIDE, number // _COLUMNS * SIDE))
    with atomic(path) as partial:
        mosaic.save(partial, "PNG")
