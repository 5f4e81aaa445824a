"""Palettes of masks, which show whether equal indices mean equal classes in all files.

Programs that compute a palette for each file number its colors anew: red is 1 in one mask and 2 in
the next.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.errors import DataError
from tasks.mask_sources.mask_files import MaskFacts
from tasks.pixels.image_cells import path_of


def check_palettes(masks: Iterable[tuple[Any, MaskFacts]]) -> None:
    """Raise DataError if a value has different colors in the palettes of two masks.

    `masks` are pairs of a cell and its summary; only values that occur count.
    """
    first: dict[int, tuple[str, str]] = {}
    for cell, facts in masks:
        name = path_of(cell) or "a mask"
        palette = _palette(cell)
        for value in facts.counts if palette else ():
            color = "#" + bytes(palette[3 * value : 3 * value + 3]).hex()
            known, place = first.setdefault(value, (color, name))
            if color != known:
                raise DataError(
                    f"masks: value {value} is {known} in {place}, but {color} in {name}: their"
                    " palettes differ, so equal values may be different classes;"
                    " task.encoding=color reads the colors, task.encoding=index the values"
                )


def _palette(cell: Any) -> list[int]:
    """Return the colors of a palette image, red, green, blue, ...; [] for other masks."""
    if isinstance(cell, Image.Image):
        return _colors(cell)
    path = path_of(cell)
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return _open(io.BytesIO(cell["bytes"]))
    return _of_file(path) if path else []


@lru_cache(maxsize=1 << 14)
def _of_file(path: str) -> list[int]:
    return _open(Path(path))


def _open(source: Any) -> list[int]:
    try:
        with Image.open(source) as image:
            return _colors(image)
    except OSError:  # not an image, such as a .npy file
        return []


def _colors(image: Image.Image) -> list[int]:
    return (image.getpalette("RGB") or []) if image.mode == "P" else []
