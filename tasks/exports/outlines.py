"""Shapes of annotation tools, converted to polygons, or to run-length masks as COCO has them.

Shapes: H, W pixels.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tasks.image.image_reading import MAX_PIXELS
from tasks.objects.annotated import Annotated
from tasks.objects.polygons import bounds, outline_area

Mask = NDArray[np.bool_]
_CORNERS = 64  # of an ellipse
_POINTS = 6  # numbers of the smallest polygon
_FAR = 10  # largest coordinate of an outline with holes, in multiples of the image's longer side


def finite_numbers(values: Any) -> list[float]:
    """Return finite numbers, which may be given as text. Raises ValueError."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise ValueError(f"{values!r:.60} is not a list of numbers")
    try:
        found = [math.nan if isinstance(value, bool) else float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{list(values)!r:.80} are not all numbers")
    return found


def point_numbers(points: Any) -> list[float]:
    """Return [[x, y], ...] as [x, y, x, y, ...]. Raises ValueError."""
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise ValueError(f"{points!r:.60} is not a list of points")
    flat = [finite_numbers(point) for point in points]
    if any(len(point) != 2 for point in flat):
        raise ValueError(f"{points!r:.60} are not points of x and y")
    return list(chain(*flat))


def ellipse_outline(
    x: float, y: float, across: float, down: float, degrees: float = 0
) -> list[float]:
    """Return the outline of an ellipse, by its center and its radii."""
    corners = (2 * math.pi * index / _CORNERS for index in range(_CORNERS))
    outline = chain(*((x + across * math.cos(a), y + down * math.sin(a)) for a in corners))
    return rotate_points(list(outline), degrees, (x, y))


def box_outline(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Return the outline of a box."""
    return [left, top, right, top, right, bottom, left, bottom]


def rotate_points(
    points: Sequence[float], degrees: float, around: tuple[float, float]
) -> list[float]:
    """Return points that are turned clockwise, as images have them, around a point."""
    if degrees % 360 == 0:
        return list(points)
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    shifted = [
        (x - around[0], y - around[1]) for x, y in zip(points[::2], points[1::2], strict=True)
    ]
    return list(
        chain(
            *(
                (around[0] + x * cosine - y * sine, around[1] + x * sine + y * cosine)
                for x, y in shifted
            )
        )
    )


def set_outline(item: Annotated, points: Sequence[float]) -> None:
    """Give an object a polygon, or a fault if it has fewer than 3 points."""
    if len(points) < _POINTS:
        item.fault = f"polygon has {len(points) // 2} points; 3 are needed"
        return
    item.polygons, item.area = [list(points)], outline_area(points)


def join_shapes(first: Annotated, other: Annotated) -> None:
    """Add the shape of an object, a box of corners or polygons, to another object."""
    if not first.polygons and not other.polygons:
        left, top, right, bottom = bounds([first.box, other.box])
        first.box = [left, top, right, bottom]
        return
    first.polygons = [each for item in (first, other) for each in _polygons(item)]
    first.box, first.area = [], sum(map(outline_area, first.polygons))


def _polygons(item: Annotated) -> list[list[float]]:
    if item.polygons:
        return item.polygons
    left, top, right, bottom = item.box
    return [box_outline(left, top, right, bottom)]


def set_mask(item: Annotated, mask: Mask, origin: tuple[int, int], size: tuple[int, int]) -> None:
    """Give an object a mask, whose left top corner is at `origin` (x, y) of an image of `size`.

    Raises ValueError for a mask that is empty or not inside the image.
    """
    from faster_coco_eval.core import mask as coco_mask

    check_size(size)
    (left, top), (height, width) = origin, mask.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"mask of {width} x {height} pixels at {left}, {top} extends beyond the image of"
            f" {size[1]} x {size[0]} pixels"
        )
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("mask is empty")
    whole = np.zeros(size, np.uint8, order="F")
    whole[top : top + height, left : left + width] = mask
    item.counts, item.size = coco_mask.encode(whole)["counts"].decode(), list(size)
    item.area = float(mask.sum())
    sides = (columns[0] + left, rows[0] + top, columns[-1] + left + 1, rows[-1] + top + 1)
    item.box, item.form = [float(side) for side in sides], "xyxy"


def set_holes(
    item: Annotated, outer: Sequence[float], holes: Sequence[Sequence[float]], size: tuple[int, int]
) -> None:
    """Give an object a polygon with holes, as a mask. Raises ValueError."""
    from faster_coco_eval.core import mask as coco_mask

    check_size(size)
    outlines = [points for points in (outer, *holes) if len(points) >= _POINTS]
    if len(outer) < _POINTS:
        raise ValueError(f"polygon has {len(outer) // 2} points; 3 are needed")
    if any(abs(value) > _FAR * max(size) for value in chain(*outlines)):
        raise ValueError(f"polygon is far outside the image of {size[1]} x {size[0]} pixels")
    shapes = coco_mask.frPyObjects([list(points) for points in outlines], *size)
    filled, *cut = [coco_mask.decode(shape).astype(bool) for shape in shapes]
    for hole in cut:
        filled &= ~hole
    set_mask(item, filled, (0, 0), size)
    left, top, right, bottom = bounds([outer])
    item.box = [left, top, right, bottom]


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError for a size (H, W) that no image has."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"image size {size[1]} x {size[0]} is not possible")


def runs_to_mask(runs: Sequence[int], height: int, width: int) -> Mask:
    """Return a mask by the lengths of its runs along the rows, from a run of background.

    Raises ValueError if they do not fill the mask.
    """
    check_size((height, width))
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"its runs do not add up to {width} x {height} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def decode_bitmap(text: Any, *, is_packed: bool) -> Mask:
    """Return the mask in a PNG as base64, packed with zlib before. Raises ValueError."""
    try:
        content = base64.b64decode(text, validate=True)
        if is_packed:
            content = zlib.decompressobj().decompress(content, MAX_PIXELS)
        with Image.open(io.BytesIO(content)) as image:
            check_size((image.height, image.width))
            band = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
            return np.asarray(band) > 0
    except (TypeError, binascii.Error, zlib.error, UnidentifiedImageError, OSError) as error:
        raise ValueError(f"bitmap cannot be decoded: {error}") from error
    except (SyntaxError, Image.DecompressionBombError) as error:  # of broken PNG files
        raise ValueError(f"bitmap cannot be decoded: {error}") from error


def decode_brush(packed: Any, size: tuple[int, int]) -> Mask:
    """Return the mask [H, W] of a brush of Label Studio. Raises ValueError.

    The bytes hold red, green, blue and alpha of every pixel in the format of thi.ng/rle-pack: 32
    bits of length, 5 of word size, four times 4 of run sizes; then runs of one or several words.
    """
    height, width = size
    check_size(size)
    try:
        data = bytes(packed)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"rle is not a list of bytes: {error}") from error
    if len(data) < 8 or int.from_bytes(data[:4], "big") != 4 * height * width:
        raise ValueError(f"rle does not describe {width} x {height} pixels")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    return _unpack(bits, 4 * height * width).reshape(height, width, 4)[:, :, 3] > 0


def _unpack(bits: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    place = 32

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("rle ends too early")
        return int("".join(map(str, bits[place - count : place])), 2)

    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    parts, filled = list[NDArray[np.uint8]](), 0
    while filled < length:
        is_run = read(1)
        count = min(read(sizes[read(2)]) + 1, length - filled)
        if is_run:
            parts.append(np.full(count, min(read(word), 255), np.uint8))
        else:
            if place + count * word > len(bits):
                raise ValueError("rle ends too early")
            words = bits[place : place + count * word].reshape(count, word)
            parts.append((words.sum(axis=1) > 0).astype(np.uint8))
            place += count * word
        filled += count
    return np.concatenate(parts)
