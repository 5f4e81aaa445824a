"""Arrays of any number of bands, from .npy files and multi-band TIFF files.

Shapes: H, W pixels, C bands.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DataError
from tasks.pixels.image_opening import openable

ARRAY_ENDING = ".npy"


def is_band_file(path: str | Path) -> bool:
    """True for a file that holds an array: its pixels are not decoded as an image."""
    return Path(path).suffix.lower() == ARRAY_ENDING


def read_band_file(path: Path) -> NDArray[Any]:
    """Read the array of a .npy file, memory-mapped. Raises DataError."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"is not a valid .npy file: {error}") from error


def read_tiff_bands(source: Path | bytes, *, first_page: bool = False) -> NDArray[Any]:
    """Read all bands of a TIFF file, or those of its first page. Raises DataError."""
    if find_spec("tifffile") is None:
        raise DataError(
            "is a TIFF file of several bands or of deep colors, which needs the package tifffile;"
            " pip install 'finetune-kit[bands]'"
        )
    try:
        pages = {"key": 0} if first_page else {}
        return np.asarray(import_module("tifffile").imread(openable(source), **pages))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise DataError(f"cannot be read as a TIFF file of several bands: {error}") from error


def array_size(pixels: NDArray[Any]) -> tuple[int, int]:
    """Return (H, W) of an array whose bands come first or last: they are its shortest side."""
    first, second, *rest = pixels.shape
    if rest and first < min(second, rest[0]):
        return second, rest[0]
    return first, second


def bands_last(pixels: NDArray[Any], count: int) -> NDArray[Any]:
    """Return an array of `count` bands as [H, W, C]; bands may come first or last.

    Raises DataError for an array of another number of bands.
    """
    if pixels.ndim == 2 and count == 1:
        return pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[-1] == count:
        return pixels
    if pixels.ndim == 3 and pixels.shape[0] == count:
        return np.moveaxis(pixels, 0, -1)
    raise DataError(
        f"is an array {pixels.dtype} {list(pixels.shape)}, not [H, W, {count}] or [{count}, H, W];"
        " set task.channels to its number of bands"
    )
