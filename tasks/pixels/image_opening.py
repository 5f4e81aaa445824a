"""Opening of image files with Pillow, HEIC among them if its package is installed."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from finetune.errors import DataError

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image without decoding its pixels.

    Raises DataError for a HEIC file without the package that reads it, and what Pillow raises.
    """
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        if not is_heic(file.read(12)):
            raise
    if find_spec("pillow_heif") is None:
        raise DataError(
            "is a HEIC image, which needs the package pillow-heif; pip install 'finetune-kit[heic]'"
        )
    import_module("pillow_heif").register_heif_opener()
    file.seek(0)
    return Image.open(file)


def openable(source: str | Path | bytes) -> str | Path | io.BytesIO:
    """Return what libraries open: a path as it is, bytes as a file in memory."""
    return io.BytesIO(source) if isinstance(source, bytes) else source


def open_bytes(content: bytes) -> Image.Image:
    """Open an image in memory; see `open_image`."""
    return open_image(io.BytesIO(content))


def is_heic(start: bytes) -> bool:
    """True if a file with these first 12 bytes is a HEIC or HEIF image."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS
