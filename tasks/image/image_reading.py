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
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from finetune.errors import DataError
from tasks.pixels.band_files import (
    array_size,
    bands_last,
    is_band_file,
    read_band_file,
    read_tiff_bands,
)
from tasks.pixels.deep_colors import deep_colors_size, read_deep_colors
from tasks.pixels.image_cells import (
    check_not_empty,
    file_or_bytes,
    is_array,
    path_of,
    to_array,
)
from tasks.pixels.image_headers import ImageHeader, is_deep_array, is_deep_mode, read_header
from tasks.pixels.image_opening import open_bytes, open_image
from tasks.pixels.orientation import orientation_of, swaps_sides, to_upright, upright_size
from tasks.pixels.pixel_range import to_8_bits
from tasks.pixels.tiff_layout import TiffLayout, tiff_layout
from tasks.pixels.valid_pictures import digest_of, valid_pictures

MAX_PIXELS = 89_478_485
"""Pillow's own limit, above which it warns of decompression bombs: 256 MiB of RGB."""
# task.max_pixels replaces Pillow's warning. The filter is permanent because catch_warnings is not
# thread-safe, and images are checked in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_WHITE = (255, 255, 255, 255)
_COLORS = (1, 3)  # channels of gray and of RGB
_JPEGS = ("JPEG", "MPO")  # Pillow's names; MPO is that of some cameras
_ANY_RANGE = (0.0, 1.0)  # for a check, which needs no pixels
_MOST_DIGESTED = 2**28  # bytes of a file that is read twice, once for its digest


def read_image(
    value: Any,
    max_pixels: int = MAX_PIXELS,
    pixel_range: Any = None,
    enough: int | None = None,
) -> Image.Image:
    """Decode a cell to an upright RGB image. Raises DataError without the name of the image.

    A JPEG may be decoded at a half, a quarter or an eighth of its size, if its shorter side then
    still has `enough` pixels.
    """
    with _named_faults():
        image = _load_image(value, max_pixels, pixel_range)
        if enough is not None and image.format in _JPEGS and image.mode in ("RGB", "L"):
            _check_size((image.height, image.width), max_pixels)
            image.draft(None, (enough, enough))
        return _to_rgb(image, max_pixels, pixel_range)


def read_channels(
    value: Any,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    pixel_range: Any = None,
    enough: int | None = None,
) -> NDArray[np.uint8]:
    """Decode a cell to pixels [H, W, C] of this number of channels.

    Three channels are RGB, one is gray; others are bands as they are stored. `enough` is that of
    `read_image`, for RGB. Raises DataError without the name of the image.
    """
    if channels == 3:
        return np.array(read_image(value, max_pixels, pixel_range, enough))
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
    layout = _tiff_layout_of(value)
    if layout is not None and channels in _COLORS:
        _check_colors(layout)
    deep_colors = _deep_colors_of(value, channels, max_pixels)
    if deep_colors is not None:
        return bands_last(deep_colors, channels)
    if layout is not None and channels not in _COLORS:
        _check_size(layout.size, max_pixels)
        return bands_last(read_tiff_bands(file_or_bytes(value)), channels)
    with _named_faults():
        image = to_upright(_decode(_load_image(value, max_pixels, None), max_pixels))
        if is_deep_mode(image.mode):
            deep = np.asarray(image)  # [H, W]
            return deep if channels == 3 else bands_last(deep, channels)
        if channels not in _COLORS:
            return bands_last(np.asarray(image), channels)
        image = image if image.mode == "L" else _to_rgb(image, max_pixels, None)
        return np.asarray(image.convert("L"))[..., None] if channels == 1 else np.asarray(image)


def inspect_header(value: Any) -> ImageHeader:
    """Read the header of a valid cell: the depth of its values and its number of frames."""
    if is_array(value):
        return read_header(to_array(value))
    return read_header(value if isinstance(value, Image.Image) else file_or_bytes(value))


def find_fault(
    value: Any, max_pixels: int = MAX_PIXELS, channels: int = 3, has_range: bool = True
) -> str | None:
    """Return the fault of an image, found by decoding it, or None.

    Without a range, 16-bit and float values are a fault. The result is cached per file, and images
    are not decoded again whose content is among the `valid_pictures` of these arguments.
    """
    way = max_pixels, channels, has_range
    path = path_of(value)
    if path is None:
        stored = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(stored, bytes):
            return _fault(value, *way)
        return _unless_valid(stored, lambda: hashlib.sha256(stored).hexdigest(), "", way)
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return _fault(value, *way)
    return _fault_of_file(path, stat.st_mtime_ns, stat.st_size, *way)


def digest_image(value: Any) -> str:
    """Return the SHA-256 of an image's file, or of the pixels of a PIL image or an array."""
    if is_array(value):
        pixels = to_array(value)
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    if isinstance(value, Image.Image):
        return hashlib.sha256(f"{value.mode} {value.size}".encode() + value.tobytes()).hexdigest()
    source = file_or_bytes(value)
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
        return array_size(array)
    if isinstance(value, Image.Image):
        return upright_size(value)
    source = file_or_bytes(value)
    if isinstance(source, bytes):
        return _size_in(source)
    try:
        stat = source.stat()
        return _size_of_file(str(source), stat.st_mtime_ns, stat.st_size)
    except OSError as error:  # such as a folder
        raise DataError(f"cannot be read: {error.strerror}") from error


def _load_image(value: Any, max_pixels: int, pixel_range: Any) -> Image.Image:
    """Open the image of a cell with its pixels decoded. Raises DataError."""
    array = _array_of(value)
    if array is not None and array.ndim == 3 and not is_array(value):  # a .npy file
        array = bands_last(array, 3)
    if array is None:
        if (layout := _tiff_layout_of(value)) is not None:
            _check_colors(layout)
        array = _deep_colors_of(value, 3, max_pixels)
    if array is not None:
        return _from_array(array, pixel_range)
    if isinstance(value, Image.Image):
        return value
    source = file_or_bytes(value)
    check_not_empty(source)
    # Opening bytes instead of the path: Pillow would keep the file open.
    return open_bytes(source if isinstance(source, bytes) else source.read_bytes())


def _tiff_layout_of(value: Any) -> TiffLayout | None:
    return None if isinstance(value, Image.Image) else tiff_layout(file_or_bytes(value))


def _check_colors(layout: TiffLayout) -> None:
    """Raise DataError for a TIFF image of other bands than gray or RGB."""
    if layout.fault:
        raise DataError(layout.fault)


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
    if isinstance(value, Image.Image):
        return None
    source = file_or_bytes(value)
    if isinstance(source, Path) and is_band_file(source):
        check_not_empty(source)
        return read_band_file(source)
    return None


def _deep_colors_of(value: Any, channels: int, max_pixels: int) -> NDArray[Any] | None:
    """Return the values [H, W, C] of an image with deep colors; None for others."""
    if isinstance(value, Image.Image):
        return None
    source = file_or_bytes(value)
    size = deep_colors_size(source)
    if size is None:
        return None
    _check_size(size, max_pixels)
    with _named_faults():
        return read_deep_colors(source, channels)


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


def _fault(value: Any, max_pixels: int, channels: int, has_range: bool) -> str | None:
    try:
        if not has_range:
            read_channels(value, channels, max_pixels)
        elif channels == 3:
            read_image(value, max_pixels, _ANY_RANGE)
        else:
            read_unscaled(value, channels, max_pixels)
    except DataError as error:
        return str(error)
    return None


@lru_cache(maxsize=1 << 18)
def _fault_of_file(
    path: str, changed: int, size: int, max_pixels: int, channels: int, has_range: bool
) -> str | None:
    way = max_pixels, channels, has_range
    if not 0 < size <= _MOST_DIGESTED:
        return _fault(path, *way)
    digest = partial(_digest_of_file, path, changed, size)
    return _unless_valid(path, digest, Path(path).suffix, way)


def _unless_valid(
    value: Any, digest: Callable[[], str], suffix: str, way: tuple[int, int, bool]
) -> str | None:
    """Return the fault of an image, without decoding it again if it is known to be valid."""
    valid = valid_pictures(*way)
    try:
        picture = digest_of(digest(), suffix)
    except OSError:  # such as that of a folder
        return _fault(value, *way)
    if picture in valid:
        return None
    fault = _fault(value, *way)
    if fault is None:
        valid.add(picture)
    return fault


@lru_cache(maxsize=1 << 18)
def _digest_of_file(path: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=1 << 18)
def _size_of_file(path: str, changed: int, size: int) -> tuple[int, int]:
    return _size_in(Path(path))


def _size_in(source: Path | bytes) -> tuple[int, int]:
    stored = deep_colors_size(source)
    if stored is not None:
        return stored[::-1] if swaps_sides(orientation_of(source)) else stored
    layout = tiff_layout(source)
    if layout is not None and not layout.is_color:
        return layout.size
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            with open_image(file) as image:
                return upright_size(image)
        except DataError:
            raise
        except Exception as error:  # decoders may raise anything on a corrupt file
            raise DataError(f"is corrupt: {error}") from error


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    """Decode the pixels of an opened image, unless there are too many."""
    _check_size((image.height, image.width), max_pixels)
    image.load()
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise DataError if an image of `size` (H, W) has too many pixels."""
    height, width = size
    if height * width > max_pixels:
        raise DataError(
            f"has {width} x {height} pixels, over the limit of {max_pixels} (task.max_pixels)"
        )


def _to_rgb(image: Image.Image, max_pixels: int, pixel_range: Any) -> Image.Image:
    image = to_upright(_decode(image, max_pixels))
    if is_deep_mode(image.mode):  # Pillow's own conversion clips it to white
        if pixel_range is None:
            raise DataError(_needs_range(np.asarray(image)))
        image = Image.fromarray(to_8_bits(np.asarray(image), pixel_range))
    if image.has_transparency_data:
        image = image.convert("RGBA")  # also from a palette, gray, or one transparent color
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
