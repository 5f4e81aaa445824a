"""Facts from the header of an image, before its pixels are decoded: depth and number of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.pixels.band_files import is_band_file, read_band_file
from tasks.pixels.deep_colors import deep_colors_size
from tasks.pixels.image_opening import open_bytes, open_image
from tasks.pixels.tiff_layout import tiff_layout

_ALWAYS_8_BITS = (b"\xff\xd8", b"BM")  # the first bytes of JPEG and BMP files


class ImageHeader(NamedTuple):
    """Facts about a stored image.

    Attributes:
        name: its file name; "" for an image in memory.
        is_deep: True if its values need a range: 16-bit or 32-bit gray, deep colors, floats, other
            arrays.
        has_frames: True if it has several frames or pages, of which the first one is read.
    """

    name: str = ""
    is_deep: bool = False
    has_frames: bool = False


def read_header(source: Path | bytes | Image.Image | NDArray[Any]) -> ImageHeader:
    """Read the header of an image that is known to be valid."""
    if isinstance(source, np.ndarray):
        return ImageHeader(is_deep=is_deep_array(source))
    if isinstance(source, Image.Image):
        return _describe(source, "")
    name = "" if isinstance(source, bytes) else source.name
    layout = tiff_layout(source)
    if layout is not None and not layout.is_color:
        return ImageHeader(name, layout.is_deep)
    if deep_colors_size(source) is not None:
        return ImageHeader(name, is_deep=layout is None or layout.is_deep)
    if isinstance(source, bytes):
        with open_bytes(source) as image:
            return _describe(image, "")
    if is_band_file(source):
        return ImageHeader(name, is_deep_array(read_band_file(source)))
    with source.open("rb") as file:
        if file.read(2) in _ALWAYS_8_BITS:
            return ImageHeader(name)
        file.seek(0)
        with open_image(file) as image:
            return _describe(image, name)


def is_deep_mode(mode: str) -> bool:
    """True for Pillow's modes of 16-bit, 32-bit and float gray."""
    return mode.startswith(("I", "F"))


def is_deep_array(pixels: NDArray[Any]) -> bool:
    """True for an array whose values are not all from 0 to 255, or that holds floats."""
    if pixels.dtype == np.uint8 or not pixels.size:
        return False
    return not np.issubdtype(pixels.dtype, np.integer) or bool(
        pixels.min() < 0 or pixels.max() > 255
    )


def _describe(image: Image.Image, name: str) -> ImageHeader:
    return ImageHeader(
        name,
        is_deep_mode(image.mode),
        bool(getattr(image, "is_animated", False)),
    )
