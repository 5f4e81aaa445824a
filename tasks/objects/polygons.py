"""Geometry of polygons, [x, y, x, y, ...]."""

from __future__ import annotations

from collections.abc import Sequence


def bounds(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of some polygons."""
    across = [x for points in polygons for x in points[::2]]
    down = [y for points in polygons for y in points[1::2]]
    return min(across), min(down), max(across), max(down)


def outline_area(points: Sequence[float]) -> float:
    """Return the area of a polygon by the shoelace formula."""
    across, down = points[::2], points[1::2]
    crossed = zip(across, down, [*across[1:], across[0]], [*down[1:], down[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in crossed)) / 2
