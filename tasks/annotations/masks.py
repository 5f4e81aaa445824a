"""A mask as people have it -> the value of each pixel; folders of pictures and masks -> rows.

A mask is a path, bytes, {"bytes", "path"} or a PIL image: an index, palette or 16-bit PNG, a
picture of colours, or a .npy of integers; or rows of integers; or the objects of a COCO row. What
the values mean is `tasks.masks.coding`.

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
from PIL import Image

from finetune.errors import DataError
from tasks.vision.images import MAX_PIXELS, path_of

Values = NDArray[np.int32]
Kind = Literal["index", "color", "objects"]
MOST_VALUES = 512
"""A mask with more different values is a photograph, or was blurred by lossy compression."""
NO_OBJECT = -1
"""The value of a pixel that lies in no object."""


@dataclass(frozen=True)
class MaskFacts:
    """What a mask holds: its size (H, W), what its values are, and how many pixels have each."""

    size: tuple[int, int]
    kind: Kind
    counts: Mapping[int, int]


def read_mask(value: Any) -> tuple[Values, Kind]:
    """The value of each pixel [H, W]; a colour is 65536 red + 256 green + blue.

    Raises DataError with what is wrong, unnamed.
    """
    if isinstance(value, Image.Image):
        return _from_picture(value)
    if isinstance(value, list | np.ndarray):  # what `datasets` makes of an array
        return _checked(np.asarray(value)), "index"
    content, name = _content(value)
    if name.endswith(".npy") or content.startswith(b"\x93NUMPY"):
        return _from_array(content), "index"
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _from_picture(image)
    except DataError:
        raise
    except Exception as error:  # a decoder may raise anything on a broken file
        raise DataError(f"cannot be read as a picture: {error}") from error


def paint_objects(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Values:
    """The category_id of each pixel [H, W], NO_OBJECT where there is none.

    Large objects are painted first, so that small ones stay visible on them.
    """
    from faster_coco_eval.core import mask

    height, width = size
    values = np.full(size, NO_OBJECT, np.int32)
    for item in sorted(objects, key=lambda item: -float(item["area"] or 0)):
        shape: Any = [points for points in item["polygons"] or [] if len(points) >= 6]
        if item["counts"]:
            shape = {"size": [height, width], "counts": item["counts"].encode()}
        elif shape:
            shape = mask.merge(mask.frPyObjects(shape, height, width))
        if shape:
            values[mask.decode(shape).astype(bool)] = item["category_id"]
    return values


def find_facts(value: Any) -> MaskFacts:
    """What a mask holds; a file is read once, however often it is asked for. Raises DataError."""
    path = path_of(value)
    if path is not None:
        try:
            found = Path(path).stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        return _facts_of_file(path, found.st_mtime_ns, found.st_size)
    return count_values(*read_mask(value))


def count_values(values: Values, kind: Kind) -> MaskFacts:
    """How many pixels have each value. Raises DataError for more values than a mask has."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) > MOST_VALUES:
        raise DataError(
            f"has {len(found)} different values, so it is no mask; a mask that was saved as JPEG"
            " has lost its values"
        )
    numbers = dict(zip(found.tolist(), counts.tolist(), strict=True))
    height, width = values.shape
    return MaskFacts((height, width), kind, numbers)


@lru_cache(maxsize=1 << 18)
def _facts_of_file(path: str, changed: int, size: int) -> MaskFacts:
    return count_values(*read_mask(path))


def _content(value: Any) -> tuple[bytes, str]:
    """The bytes of a cell, and the name of its file if it has one."""
    path = path_of(value)
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value, path or ""
    if path is None or not path.strip():
        raise DataError("is missing" if not value else f"is {type(value).__name__}, no mask")
    try:
        return Path(path).expanduser().read_bytes(), path.lower()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def _from_picture(image: Image.Image) -> tuple[Values, Kind]:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"has {image.width} x {image.height} pixels, over the limit of a picture")
    if image.mode in ("LA", "PA", "La"):
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
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
