"""Division of one large image into areas, so that a dataset of a single image has held-out pixels.

Coordinates are in pixels; H, W pixels of an image.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Area(NamedTuple):
    """A rectangle of an image; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """The size (H, W)."""
        return self.bottom - self.top, self.right - self.left

    def holds(self, x: float, y: float) -> bool:
        """True if a point is inside."""
        return self.left <= x < self.right and self.top <= y < self.bottom


def divide_area(
    size: tuple[int, int], shares: Mapping[str, float], tile: int
) -> dict[str, Area] | None:
    """Cut an image of `size` (H, W) across its longer side: train first, then a piece a share.

    None if a piece would be shorter than `tile` pixels.
    """
    height, width = size
    longer = max(height, width)
    ends = [round(longer * (1 - sum(shares.values())))]
    for share in shares.values():
        ends.append(min(longer, ends[-1] + round(longer * share)))
    starts = [0, *ends[:-1]]
    if min(end - start for start, end in zip(starts, ends, strict=True)) < tile:
        return None
    pairs = zip(("train", *shares), starts, ends, strict=True)
    if width >= height:
        return {split: Area(start, 0, end, height) for split, start, end in pairs}
    return {split: Area(0, start, width, end) for split, start, end in pairs}


def png_cell(image: Image.Image, name: str | None = None) -> dict[str, Any]:
    """Return an image as the cell of a row, {"bytes": PNG, "path": its name for messages}."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def array_cell(values: NDArray[Any]) -> dict[str, Any]:
    """Return integers [H, W] as the cell of a row, {"bytes": .npy, "path": None}."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return {"bytes": buffer.getvalue(), "path": None}
