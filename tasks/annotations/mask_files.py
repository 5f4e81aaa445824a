"""A mask as people have it -> the value of each pixel; folders of them are `mask_folders`.

A mask is a path, bytes, {"bytes", "path"} or a PIL image: an index, palette or 16-bit PNG, a
picture of colours, or a .npy of integers; or rows of integers; or the objects of a COCO row. What
the values mean is `tasks.masks.mask_coding`.

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

from finetune.errors import DataError
from tasks.image.image_reading import MAX_PIXELS, is_array, path_of, to_array

Values = NDArray[np.int32]
MaskKind = Literal["index", "color", "objects"]
_JPEG = b"\xff\xd8\xff"
_MOST_OF_JPEG = 2  # 0 and 255 may survive; of more, some are what lies between them
_FAR = 10  # sides of a picture that an outline may reach beyond it
MOST_VALUES = 512
"""A mask with more different values is a photograph, or was blurred by lossy compression."""
NO_OBJECT = -1
"""The value of a pixel that lies in no object."""


@dataclass(frozen=True)
class MaskFacts:
    """What a mask holds: its size (H, W), what its values are, and how many pixels have each."""

    size: tuple[int, int]
    kind: MaskKind
    counts: Mapping[int, int]


def read_mask(value: Any, as_colors: bool = False) -> tuple[Values, MaskKind]:
    """The value of each pixel [H, W]; a colour is 65536 red + 256 green + blue.

    `as_colors` reads a palette or grey as the colours that it shows. Raises DataError with what is
    wrong, unnamed.
    """
    if isinstance(value, Image.Image):
        return _from_picture(value, as_colors)
    if is_array(value):
        return _checked(to_array(value).squeeze()), "index"
    return _decoded(*_content(value), as_colors)


def _decoded(content: bytes, name: str, as_colors: bool) -> tuple[Values, MaskKind]:
    if name.endswith(".npy") or content.startswith(b"\x93NUMPY"):
        return _from_array(content), "index"
    if not content:
        raise DataError("is empty: it has 0 bytes")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _from_picture(image, as_colors)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("is no picture in a format that can be read") from None
    except Exception as error:  # a decoder may raise anything on a broken file
        raise DataError(f"cannot be read as a picture: {error}") from error


def paint_objects(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Values:
    """The category_id of each pixel [H, W], NO_OBJECT where there is none.

    Large objects are painted first, so that small ones stay visible on them.
    """
    values = np.full(size, NO_OBJECT, np.int32)
    for item in sorted(objects, key=lambda item: -float(item["area"] or 0)):
        try:
            values[_area_of(item, size)] = item["category_id"]
        except DataError as error:
            raise DataError(f"{item.get('place') or repr(item['category'])}: {error}") from error
    return values


def _area_of(item: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where an object lies, [H, W]. Raises DataError."""
    from faster_coco_eval.core import mask

    if item.get("fault"):
        raise DataError(item["fault"])
    height, width = size
    outlines = [points for points in item["polygons"] or [] if len(points) >= 6]
    if item["counts"]:
        own = list(item.get("size") or size)
        if own != [height, width]:
            whose = f"its run lengths are of [height, width] {own}, the image has {[height, width]}"
            raise DataError(whose)
        shape: Any = {"size": own, "counts": item["counts"].encode()}
    elif outlines:
        _check_reach(outlines, size)
        shape = mask.merge(mask.frPyObjects(outlines, height, width))
    else:
        return np.zeros(size, bool)
    try:
        return mask.decode(shape).astype(bool)  # type: ignore[no-any-return]
    except (ValueError, RuntimeError) as error:
        raise DataError(f"its run lengths cannot be read: {error}") from error


def _check_reach(outlines: Sequence[Sequence[float]], size: tuple[int, int]) -> None:
    """Refuse what no outline can be: every step along one takes memory, so 1e9 pixels take all."""
    for points in outlines:
        far = [x for x in points if not abs(x) <= _FAR * max(size)]  # nan is not, either
        if far:
            raise DataError(
                f"its outline has the coordinate {far[0]:g}, far from the image of {size[1]} x "
                f"{size[0]} pixels"
            )


def find_facts(value: Any, as_colors: bool = False) -> MaskFacts:
    """What a mask holds; a file is read once, however often it is asked for. Raises DataError."""
    path = path_of(value)
    if path is not None:
        try:
            found = Path(path).stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        return _facts_of_file(path, found.st_mtime_ns, found.st_size, as_colors)
    return _facts_of(value, as_colors)


def count_values(values: Values, kind: MaskKind, most: int = MOST_VALUES) -> MaskFacts:
    """How many pixels have each value. Raises DataError for more values than a mask has."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) > most:
        raise DataError(
            f"has {len(found)} different values, so it is no mask; a mask that was saved as JPEG"
            " has lost its values: save it as PNG"
        )
    numbers = dict(zip(found.tolist(), counts.tolist(), strict=True))
    height, width = values.shape
    return MaskFacts((height, width), kind, numbers)


@lru_cache(maxsize=1 << 18)
def _facts_of_file(path: str, changed: int, size: int, as_colors: bool) -> MaskFacts:
    return _facts_of(path, as_colors)


def _facts_of(value: Any, as_colors: bool) -> MaskFacts:
    if isinstance(value, Image.Image):
        is_jpeg, found = value.format in ("JPEG", "MPO"), read_mask(value, as_colors)
    elif is_array(value):
        is_jpeg, found = False, read_mask(value)
    else:
        content, name = _content(value)
        is_jpeg, found = content.startswith(_JPEG), _decoded(content, name, as_colors)
    return count_values(*found, _MOST_OF_JPEG if is_jpeg else MOST_VALUES)


def _content(value: Any) -> tuple[bytes, str]:
    """The bytes of a cell, and the name of its file if it has one."""
    path = path_of(value)
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value, path or ""
    if path is None or not path.strip():
        wanted = "a path, bytes, a picture, or an array of integers [H, W]"
        raise DataError(
            "is missing" if not value else f"is {type(value).__name__}, where a mask is {wanted}"
        )
    try:
        return Path(path).expanduser().read_bytes(), path.lower()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def _from_picture(image: Image.Image, as_colors: bool) -> tuple[Values, MaskKind]:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"has {image.width} x {image.height} pixels, over the limit of a picture")
    is_deep = image.mode.startswith("I")
    if not is_deep and image.mode != "F" and as_colors:
        image = image.convert("RGB")
    if image.mode in ("LA", "PA", "La"):
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P") or is_deep:
        return np.asarray(image).astype(np.int32), "index"  # of a palette: the index
    if image.mode == "F":
        raise DataError("holds fractions, where classes are whole numbers")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue, "color"


def _from_array(content: bytes) -> Values:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"is no .npy of plain numbers: {error}") from error
    return _checked(values.squeeze())


def _checked(values: NDArray[Any]) -> Values:
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise DataError(f"is {values.dtype} {list(values.shape)}, where integers [H, W] are wanted")
    return values.astype(np.int32)


def as_indices(counts: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Grey colours and their counts as plain values 0..255."""
    return ((value & 255, count) for value, count in counts.items())


def is_grey(value: int) -> bool:
    """Whether a colour has equal channels."""
    return value == (value & 255) * 0x010101
