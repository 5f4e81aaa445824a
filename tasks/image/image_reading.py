"""Decoding of a row's image, in any form, to an upright RGB image, and checks for faults.

An image is a path, bytes, {"bytes": ..., "path": ...} as `datasets` stores it, a PIL image, or an
array or lists [H, W] or [H, W, 3]. Only the first frame of an animation is read. Transparent areas
become white. 16-bit and float values are mapped from the range of the dataset to 0..255. URLs are
not fetched.

Shapes: H rows, W columns of pixels, C channels.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import DataError
from tasks.pixels.band_files import (
    bands_last,
    is_band_file,
    is_tiff,
    read_band_file,
    read_tiff_bands,
)
from tasks.pixels.image_headers import ImageHeader, is_deep_array, is_deep_mode, read_header
from tasks.pixels.image_opening import open_bytes, open_image
from tasks.pixels.pixel_range import to_8_bits

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
_ANY_RANGE = (0.0, 1.0)  # for a check, which needs no pixels


def read_image(value: Any, max_pixels: int = MAX_PIXELS, pixel_range: Any = None) -> Image.Image:
    """Decode a cell to an upright RGB image. Raises DataError without the name of the image."""
    with _named_faults():
        return _to_rgb(_load_image(value, pixel_range), max_pixels, pixel_range)


def read_channels(
    value: Any, channels: int, max_pixels: int = MAX_PIXELS, pixel_range: Any = None
) -> NDArray[np.uint8]:
    """Decode a cell to pixels [H, W, C] of this number of channels.

    Three channels are RGB, one is gray; others are bands as they are stored. Raises DataError
    without the name of the image.
    """
    if channels == 3:
        return np.array(read_image(value, max_pixels, pixel_range))
    pixels = read_unscaled(value, channels, max_pixels)
    if pixels.dtype == np.uint8 or (pixel_range is None and not is_deep_array(pixels)):
        return pixels.astype(np.uint8)
    if pixel_range is None:
        raise DataError(_needs_range(pixels))
    return to_8_bits(pixels, pixel_range)


def read_unscaled(value: Any, channels: int = 3, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Return the stored values of a cell, [H, W, C], or [H, W] of gray that is read as RGB.

    Raises DataError without the name of the image.
    """
    array = _array_of(value)
    if array is not None:
        gray = array.ndim == 2 and channels == 3
        return array if gray else bands_last(array, channels)
    path = path_of(value)
    if channels not in (1, 3) and path is not None and is_tiff(path):
        return bands_last(read_tiff_bands(Path(path).expanduser()), channels)
    with _named_faults():
        image = _upright(_decode(_load_image(value, None), max_pixels))
        if is_deep_mode(image.mode):
            deep = np.asarray(image)  # [H, W]
            return deep if channels == 3 else bands_last(deep, channels)
        if channels not in (1, 3):
            return bands_last(np.asarray(image), channels)
        image = image if image.mode == "L" else _to_rgb(image, max_pixels, None)
        return np.asarray(image.convert("L"))[..., None] if channels == 1 else np.asarray(image)


def inspect_header(value: Any) -> ImageHeader:
    """Read the header of a valid cell: the depth of its values and its number of frames."""
    array = _array_of(value)
    if array is not None or isinstance(value, Image.Image):
        return read_header(value if array is None else array)
    return read_header(_source(value))


def find_fault(value: Any, max_pixels: int = MAX_PIXELS, channels: int = 3) -> str | None:
    """Return the fault of an image, found by decoding it, or None.

    The result is cached per file.
    """
    path = path_of(value)
    if path is None:
        return _fault(value, max_pixels, channels)
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return _fault(value, max_pixels, channels)
    return _fault_of_file(path, stat.st_mtime_ns, stat.st_size, max_pixels, channels)


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
    array = _array_of(value)
    if array is not None:
        return array.shape[0], array.shape[1]
    if isinstance(value, Image.Image):
        return _upright_size(value)
    source = _source(value)
    if isinstance(source, bytes):
        return _size_in(io.BytesIO(source))
    try:
        stat = source.stat()
        return _size_of_file(str(source), stat.st_mtime_ns, stat.st_size)
    except OSError as error:  # such as a folder
        raise DataError(f"cannot be read: {error.strerror}") from error


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
        suffix = Path(value).suffix.lower()
        return suffix in IMAGE_ENDINGS or suffix in Image.registered_extensions()
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
    if "\0" in str(value):
        raise DataError("is not a path: it contains a NUL character")
    if isinstance(value, str | Path) and str(value).strip():
        return Path(value).expanduser()
    if value is None or value == "":
        raise DataError("is missing")
    raise DataError(
        f"is {type(value).__name__}, not a path, bytes, a PIL image or an array of integers"
    )


def _load_image(value: Any, pixel_range: Any) -> Image.Image:
    """Open the image of a cell with its pixels decoded. Raises DataError."""
    array = _array_of(value)
    if array is not None:
        return _from_array(array, pixel_range)
    if isinstance(value, Image.Image):
        return value
    source = _source(value)
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if not size:
        raise DataError("is empty (0 bytes)")
    # Opening bytes instead of the path: Pillow would keep the file open.
    return open_bytes(source if isinstance(source, bytes) else source.read_bytes())


@contextmanager
def _named_faults() -> Iterator[None]:
    """Raise what decoding raises as a DataError that says what is wrong with the image."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("is not in a supported image format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"has too many pixels: {error}") from error
    except Exception as error:  # decoders may raise anything on a corrupt file
        raise DataError(f"is corrupt: {error}") from error


def _array_of(value: Any) -> NDArray[Any] | None:
    """Return the values of a cell that is an array or a .npy file; None for an image."""
    if is_array(value):
        return to_array(value)
    path = path_of(value)
    if path is None or not is_band_file(path):
        return None
    source = Path(path).expanduser()
    if not _file_size(source):
        raise DataError("is empty (0 bytes)")
    return read_band_file(source)


def _from_array(pixels: NDArray[Any], pixel_range: Any) -> Image.Image:
    """Convert gray [H, W] or color [H, W, 3] values to an image. Raises DataError.

    16-bit and float values need the range of the dataset, and are valid without it.
    """
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not (is_image and pixels.size and pixels.dtype.kind in "uif"):
        raise DataError(
            f"is an array {pixels.dtype} {list(pixels.shape)}; [H, W] or [H, W, 3] is needed (set"
            " task.channels for another number of bands)"
        )
    if pixels.dtype != np.uint8 and pixel_range is not None:
        return Image.fromarray(to_8_bits(pixels, pixel_range))
    if is_deep_array(pixels):
        raise DataError(_needs_range(pixels))
    return Image.fromarray(pixels.astype(np.uint8))


def _needs_range(pixels: NDArray[Any]) -> str:
    """Return the fault of deep pixels that no range maps to 8 bits.

    Training chooses a range if its images need one.
    """
    return (
        f"has {pixels.dtype} values from {pixels.min():g} to {pixels.max():g}, not 8-bit ones as"
        " the images of training; set the range that becomes 0 to 255, such as"
        " task.pixel_range=[0, 65535]"
    )


def _file_size(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    raise DataError("is not a file" if path.exists() else "does not exist")


def _fault(value: Any, max_pixels: int, channels: int) -> str | None:
    try:
        if channels == 3:
            read_image(value, max_pixels, _ANY_RANGE)
        else:
            read_unscaled(value, channels, max_pixels)
    except DataError as error:
        return str(error)
    return None


@lru_cache(maxsize=1 << 18)
def _fault_of_file(
    path: str, changed: int, size: int, max_pixels: int, channels: int
) -> str | None:
    return _fault(path, max_pixels, channels)


@lru_cache(maxsize=1 << 18)
def _digest_of_file(path: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=1 << 18)
def _size_of_file(path: str, changed: int, size: int) -> tuple[int, int]:
    with Path(path).open("rb") as file:
        return _size_in(file)


def _size_in(file: BinaryIO) -> tuple[int, int]:
    try:
        with open_image(file) as image:
            return _upright_size(image)
    except DataError:
        raise
    except Exception as error:  # decoders may raise anything on a corrupt file
        raise DataError(f"is corrupt: {error}") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) after applying the EXIF orientation."""
    try:
        rotated = image.getexif().get(_ORIENTATION, 1) in _ROTATED
    except _EXIF_ERRORS:
        rotated = False
    return (image.width, image.height) if rotated else (image.height, image.width)


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    """Decode the pixels of an opened image, unless there are too many."""
    if image.width * image.height > max_pixels:
        raise DataError(
            f"has {image.width} x {image.height} pixels, over the limit of {max_pixels} "
            "(task.max_pixels)"
        )
    image.load()
    return image


def _to_rgb(image: Image.Image, max_pixels: int, pixel_range: Any) -> Image.Image:
    image = _upright(_decode(image, max_pixels))
    if is_deep_mode(image.mode):  # Pillow's own conversion clips it to white
        if pixel_range is None:
            raise DataError(_needs_range(np.asarray(image)))
        image = Image.fromarray(to_8_bits(np.asarray(image), pixel_range))
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
