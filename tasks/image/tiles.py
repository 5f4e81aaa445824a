"""Overlapping windows of a large image, and the weights by which their outputs are merged.

In training every window is a sample; prediction runs all windows and merges their outputs. Used by
segmentation and detection.

Shapes: H, W pixels of an image; a window is (left, top, right, bottom) in pixels, excluding right
and bottom.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Window = tuple[int, int, int, int]
WINDOWS_AT_ONCE = 8
"""Number of windows of a large image that pass through the network at once."""


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the start of each tile along an edge; tiles overlap by at least `overlap` pixels.

    The last tile ends at the edge's end. An edge no longer than a tile has one. Raises ValueError
    if the overlap is not smaller than a tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} pixels does not fit tiles of {tile}")
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile - overlap)) + 1
    # Spread evenly: shifting only the last tile back would make its overlap much larger.
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def windows(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Window]:
    """Return the windows of an image of `size` (H, W), row by row.

    A window has the size of a tile, or of the image where that is smaller.
    """
    (height, width), (rows, columns) = size, tile
    return [
        (left, top, min(left + columns, width), min(top + rows, height))
        for top in tile_starts(height, rows, overlap)
        for left in tile_starts(width, columns, overlap)
    ]


def weights(tile: tuple[int, int]) -> Tensor:
    """Return the weight of a tile's outputs at each of its pixels, float32 [h, w] in 0..1.

    It falls linearly from the center to the borders, where a network sees the least context.
    """
    rows, columns = (1 - (2 * (torch.arange(n) + 0.5) / n - 1).abs() for n in tile)
    return rows[:, None].clamp(min=1e-3) * columns.clamp(min=1e-3)
