"""Where a large image is cut into windows: a grid that overlaps, and how windows are joined again.

Training sees every window as a sample; prediction runs all of them and joins what they say. Used by
segmentation and detection.

Shapes: H, W pixels of an image; a window is (left, top, right, bottom) in pixels, the right and
bottom ones not inside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Window = tuple[int, int, int, int]
TOGETHER = 8
"""Windows of a large image that are in the network at once."""


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an edge: they overlap by at least `overlap`, the last is flush.

    An edge no longer than a tile has one. Raises ValueError if tiles would not advance.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} pixels does not fit tiles of {tile}")
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile - overlap)) + 1
    # Spread evenly: a last tile that is only pushed back would overlap its neighbour by far more.
    return [round(place * (length - tile) / (count - 1)) for place in range(count)]


def windows(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Window]:
    """The windows of an image of `size` (H, W), row by row; each is a tile, or the whole edge."""
    (height, width), (rows, columns) = size, tile
    return [
        (left, top, min(left + columns, width), min(top + rows, height))
        for top in starts(height, rows, overlap)
        for left in starts(width, columns, overlap)
    ]


def weights(tile: tuple[int, int]) -> Tensor:
    """How much a tile's word counts at each of its pixels, float32 [h, w] in 0..1.

    It falls linearly from the middle to the borders, where a network sees least around a pixel.
    """
    rows, columns = (1 - (2 * (torch.arange(n) + 0.5) / n - 1).abs() for n in tile)
    return rows[:, None].clamp(min=1e-3) * columns.clamp(min=1e-3)
