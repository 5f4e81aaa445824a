"""EXIF orientation: the turn or the mirroring that shows a stored image upright.

Shapes: H, W pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.pixels.image_opening import openable

_TAG = 0x0112
_ROTATED = (5, 6, 7, 8)  # values that swap H and W
# Errors that Pillow raises on corrupt EXIF data.
_EXIF_ERRORS = (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError)


def orientation_of(source: str | Path | bytes) -> int:
    """Return the EXIF orientation of an image, a path or its bytes, 1 to 8; 1 if it has none."""
    try:
        with Image.open(openable(source)) as image:
            return _orientation(image)
    except Exception:  # decoders may raise anything on a corrupt file
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_TAG, 1)
    except _EXIF_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def swaps_sides(orientation: int) -> bool:
    """True for an orientation that exchanges height and width."""
    return orientation in _ROTATED


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) after applying the EXIF orientation."""
    # Pillow gives the upright size of a TIFF file at once.
    is_swapped = swaps_sides(_orientation(image)) and image.format != "TIFF"
    return (image.width, image.height) if is_swapped else (image.height, image.width)


def to_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; corrupt EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except _EXIF_ERRORS:
        return image


def turn_values(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the values [H, W, ...] of a stored image as they are upright."""
    turn = _TURNS.get(orientation)
    return values if turn is None else np.ascontiguousarray(turn(values))


def _transposed(values: NDArray[Any]) -> NDArray[Any]:
    return values.swapaxes(0, 1)


_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: _transposed,
    6: lambda values: _transposed(values)[:, ::-1],
    7: lambda values: _transposed(values)[::-1, ::-1],
    8: lambda values: _transposed(values)[::-1],
}
