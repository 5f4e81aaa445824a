"""Crops of masks: of the values of pixels, or of the outlines of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tasks.mask_sources.mask_files import read_mask
from tasks.pixels.areas import Area, array_cell, png_cell
from tasks.pixels.orientation import turn_values


def crop_mask(
    cell: Any, area: Area, as_colors: bool = False, orientation: int = 1
) -> dict[str, Any]:
    """Return an area of a mask of pixels, turned upright, as a cell. Raises DataError."""
    stored, kind = read_mask(cell, as_colors)
    values = turn_values(stored, orientation)
    part = values[area.top : area.bottom, area.left : area.right]
    if kind == "index":
        return array_cell(part)
    channels = [part >> 16 & 255, part >> 8 & 255, part & 255]
    return png_cell(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)))


def crop_objects(objects: Sequence[Mapping[str, Any]], area: Area) -> list[dict[str, Any]]:
    """Move the outlines of a row's objects into an area; what is outside of it is not painted."""
    return [_crop_object(item, area) for item in objects]


def _crop_object(item: Mapping[str, Any], area: Area) -> dict[str, Any]:
    offsets = (area.left, area.top)
    polygons = [
        [value - offsets[place % 2] for place, value in enumerate(points)]
        for points in item["polygons"] or []
    ]
    counts, size = item["counts"], item["size"]
    if counts:
        counts, size = _crop_runs(counts, size, area), list(area.size)
    return {**item, "polygons": polygons, "counts": counts, "size": size}


def _crop_runs(counts: str, size: Sequence[int], area: Area) -> str:
    """Return the compressed RLE string of an area of a mask of `size` (H, W)."""
    from faster_coco_eval.core import mask

    pixels = mask.decode({"size": list(size), "counts": counts.encode()})
    part = pixels[area.top : area.bottom, area.left : area.right]
    encoded = mask.encode(np.asfortranarray(part))["counts"]
    return encoded.decode() if isinstance(encoded, bytes) else str(encoded)
