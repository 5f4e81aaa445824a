"""Colors of more than 8 bits, of which Pillow would read the upper 8 bits, or nothing.

Pillow decodes 16-bit colors to one of their two bytes, by the byte order that it is told: both
orders give both bytes. Float colors, and TIFF files of other layouts, are decoded by tifffile.

Shapes: H, W pixels, C channels.
"""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from finetune.errors import DataError
from tasks.pixels.band_files import read_tiff_bands
from tasks.pixels.image_opening import openable
from tasks.pixels.orientation import orientation_of, turn_values
from tasks.pixels.tiff_layout import tiff_layout

_PNG = b"\x89PNG\r\n\x1a\n"
# Places in a PNG: its header, and therein its width, height, bits per channel and kind of colors.
_HEADER, _WIDTH, _HEIGHT = slice(12, 29), slice(16, 20), slice(20, 24)
_DEPTH, _KIND = 24, 25
_RGB, _GRAY_ALPHA, _RGB_ALPHA = 2, 4, 6
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COLORS = (3, 4)  # channels
_LUMA = (0.299, 0.587, 0.114)
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Pillow's raw modes of 16 bits per channel: those that read the other byte.
_RAW_MODES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in _OTHER_ORDER.items()
}


def deep_colors_size(source: Path | bytes) -> tuple[int, int] | None:
    """Return (H, W), as stored, of a PNG or TIFF image with colors of more than 8 bits.

    None for other images, by their header.
    """
    head = _head(source)
    if head.startswith(_PNG) and len(head) > _KIND:
        if head[_DEPTH] <= 8 or head[_KIND] not in (_RGB, _GRAY_ALPHA, _RGB_ALPHA):
            return None
        return int.from_bytes(head[_HEIGHT], "big"), int.from_bytes(head[_WIDTH], "big")
    return _tiff_size(source) if head.startswith(_TIFF) else None


def read_deep_colors(source: Path | bytes, channels: int = 3) -> NDArray[Any]:
    """Return the values [H, W, C] of an image with deep colors, upright.

    Three channels are RGB on white, one is gray; others are as stored. Raises DataError.
    """
    try:
        stored: NDArray[Any] | None = _read_halves(source)
    except UnidentifiedImageError:
        if not _head(source).startswith(_TIFF):
            raise
        stored = None  # float colors
    if stored is None:
        stored = _read_tiff(source)
    values = turn_values(stored, orientation_of(source))
    if channels not in (1, 3):
        return values
    colors = _on_white(values)
    if channels == 3:
        return colors
    gray: NDArray[Any] = colors.astype(np.float64) @ np.array(_LUMA)
    rounded: NDArray[Any] = gray if colors.dtype.kind == "f" else gray.round()
    return rounded.astype(colors.dtype)[..., None]


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[: _KIND + 1]
    try:
        with source.open("rb") as file:
            return file.read(_KIND + 1)
    except (OSError, ValueError):  # which decoding reports
        return b""


def _tiff_size(source: Path | bytes) -> tuple[int, int] | None:
    """Return (H, W) for 3 or 4 samples per pixel of more than 8 bits, or unknown to Pillow."""
    layout = tiff_layout(source)
    if layout is None or layout.samples not in _COLORS:
        return None
    if not layout.is_deep:
        try:
            with Image.open(openable(source)):
                return None
        except Exception:  # such as three bands that are not marked as colors
            return layout.size
    return layout.size


def _read_halves(source: Path | bytes) -> NDArray[np.uint16] | None:
    """Return the values [H, W, C] of 16-bit colors; None for layouts that Pillow cannot decode."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    if content.startswith(_PNG) and content[_KIND] == _GRAY_ALPHA:
        return _read_gray_alpha(content)
    halves = []
    for swaps in (False, True):
        with Image.open(io.BytesIO(content)) as image:
            tiles = [(tile, _RAW_MODES.get(_raw_mode(tile))) for tile in image.tile]
            if not tiles or any(other is None for _, other in tiles):
                return None
            if swaps:
                image.tile = [tile._replace(args=_with_mode(tile, other)) for tile, other in tiles]
            image.load()
            halves.append(np.asarray(image).astype(np.uint16))
    high, low = halves
    values: NDArray[np.uint16] = high * np.uint16(256) + low
    return values


def _read_gray_alpha(content: bytes) -> NDArray[np.uint16]:
    """Return the values [H, W, 2] of a PNG of 16-bit gray and alpha.

    Its four bytes per pixel are decoded as 8-bit red, green, blue and alpha.
    """
    start, end = _HEADER.start, _HEADER.stop
    header = content[start:_DEPTH] + bytes([8, _RGB_ALPHA]) + content[_KIND + 1 : end]
    checked = header + zlib.crc32(header).to_bytes(4, "big")
    with Image.open(io.BytesIO(content[:start] + checked + content[end + 4 :])) as image:
        image.load()
        return np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_mode(tile: Any, mode: Any) -> Any:
    return mode if isinstance(tile.args, str) else (mode, *tile.args[1:])


def _read_tiff(source: Path | bytes) -> NDArray[Any]:
    values = read_tiff_bands(source, first_page=True)
    if values.ndim == 3 and values.shape[-1] in _COLORS:
        return values
    if values.ndim == 3 and values.shape[0] in _COLORS:
        return np.moveaxis(values, 0, -1)
    raise DataError(f"is an array {values.dtype} {list(values.shape)}, not [H, W, 3]")


def _on_white(values: NDArray[Any]) -> NDArray[Any]:
    """Return RGB [H, W, 3] of gray or RGB, with transparent areas white."""
    if values.shape[-1] in (2, 4) and values.dtype.kind == "u":
        full = float(np.iinfo(values.dtype).max)
        alpha = values[..., -1:] / full
        values = (values[..., :-1] * alpha + full * (1 - alpha)).round().astype(values.dtype)
    colors = values[..., :3]
    return np.repeat(colors, 3, axis=-1) if colors.shape[-1] == 1 else colors
