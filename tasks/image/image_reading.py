"""Decoding of a row's image, in any form, to an upright RGB image, and checks for faults.

An image is a path, bytes, {"bytes": ..., "path": ...} as `datasets` stores it, a PIL image, or
values from 0 to 255 as an array or lists [H, W] or [H, W, 3]. Only the first frame of an animation
is read. Transparent areas become white. 16-bit gray is scaled, not clipped. URLs are not fetched.

Shapes: H rows, W columns of pixels.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.errors import DataError

MAX_PIXELS = 89_478_485
"""Pillow's own limit, above which it warns of decompression bombs: 256 MiB of RGB."""
# task.max_pixels replaces Pillow's warning. The filter is permanent because catch_warnings is not
# thread-safe, and images are checked in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://|^data:", re.IGNORECASE)
_ORIENTATION, _ROTATED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap H and W
# Errors that Pillow raises on corrupt EXIF data.
_EXIF_ERRORS = (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError)
_WHITE = (255, 255, 255, 255)


def read_image(value: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a cell to an upright RGB image. Raises DataError without the name of the image."""
    value = _from_array(value) if is_array(value) else value
    if isinstance(value, Image.Image):
        return _to_rgb(value, max_pixels)
    source = _source(value)
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if not size:
        raise DataError("is empty (0 bytes)")
    try:
        # Opening bytes instead of the path: Pillow would keep the file open.
        content = source if isinstance(source, bytes) else source.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return _to_rgb(image, max_pixels)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("is not in a supported image format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"has too many pixels: {error}") from error
    except Exception as error:  # decoders may raise anything on a corrupt file
        raise DataError(f"is corrupt: {error}") from error


def find_fault(value: Any, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return the fault of an image, found by decoding it, or None.

    The result is cached per file.
    """
    path = path_of(value)
    if path is None:
        return _fault(value, max_pixels)
    try:
        stat = Path(path).stat()
    except OSError:
        return _fault(value, max_pixels)
    return _fault_of_file(path, stat.st_mtime_ns, stat.st_size, max_pixels)


def digest_image(value: Any) -> str:
    """Return the SHA-256 of an image's file, or of the pixels of a PIL image or an array."""
    if is_array(value):
        pixels = to_array(value)
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    if isinstance(value, Image.Image):
        return hashlib.sha256(f"{value.mode} {value.size}".encode() + value.tobytes()).hexdigest()
    source = _source(value)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        stat = source.stat()
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    return _digest_of_file(str(source), stat.st_mtime_ns, stat.st_size)


def picture_size(value: Any) -> tuple[int, int]:
    """Return (H, W) of the upright image, from its file's header.

    Raises DataError without the name of the image.
    """
    value = _from_array(value) if is_array(value) else value
    if isinstance(value, Image.Image):
        return _upright_size(value)
    source = _source(value)
    if isinstance(source, bytes):
        return _size_in(io.BytesIO(source))
    try:
        stat = source.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    return _size_of_file(str(source), stat.st_mtime_ns, stat.st_size)


def path_of(value: Any) -> str | None:
    """Return the path that an image is read from, or None if it is not read from a file."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    return str(value) if isinstance(value, str | Path) and not _URL.match(str(value)) else None


def is_array(value: Any) -> bool:
    """True if a cell is an array [H, W, ...], or nested lists as `datasets` stores one.

    Nested lists with fewer than 5 values in a list are boxes, not an array.
    """
    if isinstance(value, list):
        return (
            bool(value)
            and isinstance(value[0], list)
            and (len(value[0]) > 4 and isinstance(value[0][0], int | list))
        )
    return isinstance(value, np.ndarray)


def to_array(value: Any) -> NDArray[Any]:
    """Convert a cell that `is_array` to NumPy. Raises DataError for rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError("is a list of lists of different lengths, not an array") from error


def looks_like_image(value: Any) -> bool:
    """True if a cell may be an image: a path (by its suffix), bytes, an array, a stored or a PIL
    image.
    """
    if isinstance(value, str | Path):
        return Path(value).suffix.lower() in Image.registered_extensions()
    is_stored = isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()
    return is_stored or isinstance(value, bytes | Image.Image) or is_array(value)


def _source(value: Any) -> Path | bytes:
    """Return the file or the bytes of a cell. Raises DataError if it is neither."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and _URL.match(value):
        raise DataError("is a URL, which is not fetched; download it and give the path")
    if isinstance(value, str | Path) and str(value).strip():
        return Path(value).expanduser()
    if value is None or value == "":
        raise DataError("is missing")
    raise DataError(
        f"is {type(value).__name__}, not a path, bytes, a PIL image or an array of integers"
    )


def _from_array(value: Any) -> Image.Image:
    """Convert gray [H, W] or color [H, W, 3] values of 0 to 255 to an image. Raises DataError."""
    pixels = to_array(value)
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    is_integer = np.issubdtype(pixels.dtype, np.integer)
    if not (is_image and is_integer and pixels.size and pixels.min() >= 0 and pixels.max() <= 255):
        raise DataError(
            f"is an array {pixels.dtype} {list(pixels.shape)}; uint8 [H, W] or [H, W, 3] is needed"
        )
    return Image.fromarray(pixels.astype(np.uint8))


def _file_size(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    raise DataError("is not a file" if path.exists() else "does not exist")


def _fault(value: Any, max_pixels: int) -> str | None:
    try:
        read_image(value, max_pixels)
    except DataError as error:
        return str(error)
    return None


@lru_cache(maxsize=1 << 18)
def _fault_of_file(path: str, changed: int, size: int, max_pixels: int) -> str | None:
    return _fault(path, max_pixels)


@lru_cache(maxsize=1 << 18)
def _digest_of_file(path: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=1 << 18)
def _size_of_file(path: str, changed: int, size: int) -> tuple[int, int]:
    with Path(path).open("rb") as file:
        return _size_in(file)


def _size_in(file: BinaryIO) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return _upright_size(image)
    except Exception as error:  # decoders may raise anything on a corrupt file
        raise DataError(f"is corrupt: {error}") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) after applying the EXIF orientation."""
    try:
        rotated = image.getexif().get(_ORIENTATION, 1) in _ROTATED
    except _EXIF_ERRORS:
        rotated = False
    return (image.width, image.height) if rotated else (image.height, image.width)


def _to_rgb(image: Image.Image, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise DataError(
            f"has {image.width} x {image.height} pixels, over the limit of {max_pixels} "
            "(task.max_pixels)"
        )
    image.load()
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        image = _from_deep_gray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")  # also from a palette, gray, or one transparent color
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; corrupt EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except _EXIF_ERRORS:
        return image


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit or float gray to 8 bits. Pillow's own conversion clips it to white."""
    pixels = np.asarray(image).astype(np.float64)  # [H, W]
    if image.mode.startswith("I;16"):
        pixels /= 257
    elif pixels.max(initial=0) > 255:
        pixels *= 255 / max(65535.0, float(pixels.max()))  # 16-bit values in a wider mode
    elif image.mode == "F" and pixels.max(initial=0) <= 1:
        pixels *= 255
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
