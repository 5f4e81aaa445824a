"""Decoding of a mask, in any form, to the value of each pixel.

A mask is a path, bytes, {"bytes", "path"} or a PIL image, of an index, palette or 16-bit PNG, of a
color image or of a .npy file with integers; or an array of integers; or the objects of a COCO row.
`tasks.mask_sources.mask_folders` finds the files of a folder; `tasks.masks.mask_coding` maps the
values to classes.

Shapes: H, W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from finetune.config.text_files import check_regular
from finetune.errors import DataError
from tasks.image.image_reading import MAX_PIXELS
from tasks.pixels.image_cells import is_array, path_of, to_array
from tasks.pixels.orientation import to_upright

Values = NDArray[np.int32]
MaskKind = Literal["index", "color", "objects"]
_JPEG = b"\xff\xd8\xff"
_MOST_OF_JPEG = 2  # 0 and 255 may survive the compression; further values are its artifacts
_FAR = 10  # largest coordinate of an outline, in multiples of the image's longer side
_LONGEST_OUTLINE = 1e7  # pixels
MOST_VALUES = 512
"""A mask with more distinct values is a photograph, or was changed by lossy compression."""
NO_OBJECT = -1
"""Value of a pixel outside all objects."""


@dataclass(frozen=True)
class MaskFacts:
    """Summary of a mask: its size (H, W), the kind of its values, and {value: number of pixels}."""

    size: tuple[int, int]
    kind: MaskKind
    counts: Mapping[int, int]


def read_mask(value: Any, as_colors: bool = False) -> tuple[Values, MaskKind]:
    """Return the value of each pixel [H, W]; a color is 65536 red + 256 green + blue.

    `as_colors` reads palette and gray images as the colors that they show. Raises DataError without
    the name of the mask.
    """
    if isinstance(value, Image.Image):
        return _from_image(value, as_colors)
    if is_array(value):
        return _check_array(to_array(value).squeeze()), "index"
    return _decode(*_content(value), as_colors)


def _decode(content: bytes, name: str, as_colors: bool) -> tuple[Values, MaskKind]:
    if name.endswith(".npy") or content.startswith(b"\x93NUMPY"):
        return _from_array(content), "index"
    if not content:
        raise DataError("is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _from_image(image, as_colors)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("is not in a supported image format") from None
    except Exception as error:  # decoders may raise anything on a corrupt file
        raise DataError(f"is corrupt: {error}") from error


def paint_objects(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Values:
    """Return the category_id of each pixel [H, W], or NO_OBJECT.

    Large objects are painted first, so that small ones stay visible on top of them. Raises
    DataError for an object with a malformed outline.
    """
    values = np.full(size, NO_OBJECT, np.int32)
    for item in sorted(objects, key=lambda item: -float(item["area"] or 0)):
        try:
            values[_area_of(item, size)] = item["category_id"]
        except DataError as error:
            raise DataError(f"{item.get('place') or repr(item['category'])}: {error}") from error
    return values


def _area_of(item: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels that an object covers, [H, W]. Raises DataError."""
    from faster_coco_eval.core import mask

    if item.get("fault"):
        raise DataError(item["fault"])
    height, width = size
    outlines = [points for points in item["polygons"] or [] if len(points) >= 6]
    if item["counts"]:
        rle_size = list(item.get("size") or size)
        if rle_size != [height, width]:
            raise DataError(
                f"its RLE has the size [height, width] {rle_size}, but the image has "
                f"{[height, width]}"
            )
        shape: Any = {"size": rle_size, "counts": item["counts"].encode()}
    elif outlines:
        _check_reach(outlines, size)
        shape = mask.merge(mask.frPyObjects(outlines, height, width))
    else:
        return np.zeros(size, bool)
    try:
        return mask.decode(shape).astype(bool)  # type: ignore[no-any-return]
    except (ValueError, RuntimeError) as error:
        raise DataError(f"its RLE cannot be decoded: {error}") from error


def _check_reach(outlines: Sequence[Sequence[float]], size: tuple[int, int]) -> None:
    """Raise DataError for coordinates far outside the image, and for an endless outline.

    Rasterizing an outline takes fifty bytes for each pixel of its length.
    """
    for points in outlines:
        far = [x for x in points if not abs(x) <= _FAR * max(size)]  # also true for nan
        if far:
            raise DataError(
                f"its polygon has the coordinate {far[0]:g}, far outside the image of {size[1]} x "
                f"{size[0]} pixels"
            )
        corners = np.asarray(points[: len(points) // 2 * 2], dtype=np.float64).reshape(-1, 2)
        length = float(np.hypot(*np.diff(corners, axis=0).T).sum())
        if length > _LONGEST_OUTLINE:
            raise DataError(
                f"its polygon of {len(corners)} points is {length:.3g} pixels long, more than "
                f"{_LONGEST_OUTLINE:.0e}; simplify it, or give a mask"
            )


def find_facts(value: Any, as_colors: bool = False, as_foreground: bool = False) -> MaskFacts:
    """Return the summary of a mask; cached per file. Raises DataError without the mask's name.

    `as_foreground` counts 0 and all other values as 1.
    """
    path = path_of(value)
    if path is not None:
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        return _facts_of_file(path, stat.st_mtime_ns, stat.st_size, as_colors, as_foreground)
    return _facts_of(value, as_colors, as_foreground)


def count_values(values: Values, kind: MaskKind, most: int = MOST_VALUES) -> MaskFacts:
    """Count the pixels of each value. Raises DataError if more than `most` values occur."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > most:
        raise DataError(
            f"has {len(distinct)} distinct values, too many for a mask; JPEG compression destroys"
            " the values of a mask: save it as PNG"
        )
    pixels = dict(zip(distinct.tolist(), counts.tolist(), strict=True))
    height, width = values.shape
    return MaskFacts((height, width), kind, pixels)


@lru_cache(maxsize=1 << 18)
def _facts_of_file(
    path: str, changed: int, size: int, as_colors: bool, as_foreground: bool
) -> MaskFacts:
    return _facts_of(path, as_colors, as_foreground)


def _facts_of(value: Any, as_colors: bool, as_foreground: bool) -> MaskFacts:
    if isinstance(value, Image.Image):
        is_jpeg, mask = value.format in ("JPEG", "MPO"), read_mask(value, as_colors)
    elif is_array(value):
        is_jpeg, mask = False, read_mask(value)
    else:
        content, name = _content(value)
        is_jpeg, mask = content.startswith(_JPEG), _decode(content, name, as_colors)
    if as_foreground:
        return count_values((mask[0] > 0).astype(np.int32), "index")
    return count_values(*mask, _MOST_OF_JPEG if is_jpeg else MOST_VALUES)


def _content(value: Any) -> tuple[bytes, str]:
    """Return the bytes of a cell and the name of its file, or "". Raises DataError."""
    path = path_of(value)
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value, path or ""
    if path is None or not path.strip():
        accepted = "a path, bytes, a PIL image or an array of integers [H, W]"
        raise DataError("is missing" if not value else f"is {type(value).__name__}, not {accepted}")
    try:
        file = Path(path).expanduser()
        check_regular(file)
        return file.read_bytes(), path.lower()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error


def _from_image(image: Image.Image, as_colors: bool) -> tuple[Values, MaskKind]:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}"
        )
    _check_pages(image)
    image = to_upright(image)
    is_deep = image.mode.startswith("I")
    if not is_deep and image.mode != "F" and as_colors:
        image = image.convert("RGB")
    if image.mode in ("LA", "PA", "La"):
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P") or is_deep:
        return np.asarray(image).astype(np.int32), "index"  # for a palette image, its indices
    if image.mode == "F":
        raise DataError("has floating-point values; save it with integer values")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue, "color"


def _check_pages(image: Image.Image) -> None:
    """Raise DataError for a mask of several pages of one size; smaller ones are thumbnails."""
    count, size = getattr(image, "n_frames", 1), image.size
    if count == 1:
        return
    image.seek(1)
    if image.size == size:
        raise DataError(f"has {count} pages or frames; save one page with a value for each class")
    image.seek(0)


def _from_array(content: bytes) -> Values:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise DataError(f"is not a .npy file of plain numbers: {error}") from error
    return _check_array(values.squeeze())


def _check_array(values: NDArray[Any]) -> Values:
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise DataError(
            f"is an array {values.dtype} {list(values.shape)}; integers [H, W] are needed"
        )
    return values.astype(np.int32)


def as_indices(counts: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Yield (value from 0 to 255, count) for the counts of gray colors."""
    return ((value & 255, count) for value, count in counts.items())


def is_gray(value: int) -> bool:
    """True if the channels of a color are equal."""
    return value == (value & 255) * 0x010101
