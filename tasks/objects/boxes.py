"""Box coordinate conventions, and validation of boxes with the likely cause of a fault.

A row's objects, in all file formats:

    {"bbox": [12.0, 30.5, 80.0, 99.0], "form": "xyxy", "category": "cat", "iscrowd": 0,
     "area": 900.0, "place": "labels/1.txt:3", "fault": ""}

File readers fill in `form` (the convention of the format; "" if it has none), `place` (position of
the object in its file) and `fault` (why it could not be read). Boxes keep the numbers of their file
until they are used, so that messages quote what a user finds there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.errors import DataError

Convention = Literal["xyxy", "xywh", "cxcywh", "xyxy-shares", "xywh-shares", "cxcywh-shares"]
CONVENTIONS: tuple[Convention, ...] = (
    "xyxy",
    "xywh",
    "cxcywh",
    "xyxy-shares",
    "xywh-shares",
    "cxcywh-shares",
)
_WORDS = {
    "xyxy": "left, top, right, bottom",
    "xywh": "left, top, width, height",
    "cxcywh": "center x, center y, width, height",
}
BOX_NAMES = ("bbox", "box", "boxes", "bboxes")
CATEGORY_NAMES = ("category", "label", "labels", "class", "categories", "category_id", "name")
MOST_OBJECTS = 50_000
SLACK = 1.0  # pixels by which a rounded box may extend beyond the border
SHARE_SLACK = 1e-3


def make_annotation(
    bbox: Sequence[float],
    form: str,
    category: str,
    place: str,
    fault: str = "",
    iscrowd: int = 0,
    area: float = 0.0,
) -> dict[str, Any]:
    """Return an object as file readers add it to a row."""
    return {
        "bbox": bbox,
        "form": form,
        "category": category,
        "iscrowd": iscrowd,
        "area": area,
        "place": place,
        "fault": fault,
    }


@dataclass(frozen=True)
class ImageObject:
    """A parsed object of an image.

    Attributes:
        box: left, top, right, bottom in pixels; None if it is not four finite numbers.
        values: the numbers as given in the row.
        form: the convention in which they were read.
        category: name or number of the class; None: missing.
        is_crowd: True for a region of several objects, which metrics ignore.
        area: in pixels; None: that of the box.
        place, fault: see the module.
        is_open: True if neither the file nor the config says in which convention the box is.
    """

    box: tuple[float, float, float, float] | None
    values: Sequence[Any]
    form: Convention
    category: Any
    is_crowd: bool = False
    area: float | None = None
    place: str = ""
    fault: str = ""
    is_open: bool = False


def to_corners(
    box: Sequence[float], convention: Convention, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Convert a box to left, top, right, bottom in pixels of an image of `size` (H, W)."""
    first, second, third, fourth = map(float, box)
    form, _, shares = convention.partition("-")
    if shares:
        height, width = size
        first, second, third, fourth = (
            first * width,
            second * height,
            third * width,
            fourth * height,
        )
    if form == "xyxy":
        return first, second, third, fourth
    if form == "cxcywh":
        first, second = first - third / 2, second - fourth / 2
    return first, second, first + third, second + fourth


def from_corners(
    box: Sequence[float], convention: Convention, size: tuple[int, int]
) -> list[float]:
    """Convert left, top, right, bottom in pixels of an image of `size` (H, W) to a convention."""
    left, top, right, bottom = map(float, box)
    form, _, shares = convention.partition("-")
    if form == "xyxy":
        values = [left, top, right, bottom]
    elif form == "cxcywh":
        values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    else:
        values = [left, top, right - left, bottom - top]
    height, width = size
    scales = (width, height) * 2 if shares else (1, 1, 1, 1)
    return [value / scale for value, scale in zip(values, scales, strict=True)]


def turn_box(corners: Sequence[float], degrees: float) -> list[float]:
    """Return the corners of the box around one that is turned about its center."""
    left, top, right, bottom = corners
    cosine, sine = (abs(f(math.radians(degrees))) for f in (math.cos, math.sin))
    across = ((right - left) * cosine + (bottom - top) * sine) / 2
    down = ((right - left) * sine + (bottom - top) * cosine) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return [x - across, y - down, x + across, y + down]


def is_numbers(box: Any) -> bool:
    """True if a box has four finite numbers."""
    try:
        return len(box) == 4 and all(math.isfinite(float(value)) for value in box)
    except (TypeError, ValueError, OverflowError):
        return False


def fits(box: Sequence[float], convention: Convention, size: tuple[int, int]) -> bool:
    """True if a box, read in this convention, has an area and is inside the image."""
    shares = convention.endswith("-shares")
    if shares and max(map(abs, box)) > 1 + SHARE_SLACK:
        return False
    if not shares and max(box) <= 1:  # more likely shares than a box of one pixel
        return False
    left, top, right, bottom = to_corners(box, convention, size)
    inside = left >= -SLACK and top >= -SLACK
    inside &= right <= size[1] + SLACK and bottom <= size[0] + SLACK
    return inside and right > left and bottom > top


def objects_in(
    cell: Any, convention: Convention | None = None, size: tuple[int, int] = (1, 1)
) -> list[ImageObject]:
    """Parse a cell, a list of dicts or a dict of lists, for an image of `size` (H, W).

    Boxes are read in `convention`; None: that of their file, else xyxy. Raises DataError for a
    malformed cell, without its name.
    """
    return [_object(item, convention, size) for item in items_of(cell)]


def items_of(cell: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a cell, a list of dicts or a dict of lists. Raises DataError."""
    if isinstance(cell, Mapping):
        lengths = {len(values) for values in cell.values()}
        if len(lengths) > 1:
            raise DataError(f"has lists of different lengths: {sorted(lengths)}")
        count = lengths.pop() if lengths else 0
        _check_count(count)
        return [{name: values[index] for name, values in cell.items()} for index in range(count)]
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        _check_count(len(cell))
        for item in cell:
            if not isinstance(item, Mapping):
                raise DataError(f"contains {item!r:.60}, not a dict with bbox and category")
        return list(cell)
    raise DataError(f"is {cell!r:.60}, not a list of objects; use [] for an image without objects")


def _check_count(count: int) -> None:
    """Raise DataError for objects that are not those of one image."""
    if count > MOST_OBJECTS:
        raise DataError(
            f"has {count} objects, more than the {MOST_OBJECTS} that an image may have; cut the "
            "image into tiles, each a row of its own"
        )


def categories_in(cell: Any) -> list[Any]:
    """Return the category of each object of a cell, without reading its box. Raises DataError."""
    return [_first(item, CATEGORY_NAMES) for item in items_of(cell)]


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first value of these names that is not None."""
    for name in names:
        if (value := item.get(name)) is not None:
            return value
    return None


def _object(
    item: Mapping[str, Any], convention: Convention | None, size: tuple[int, int]
) -> ImageObject:
    values = _first(item, BOX_NAMES)
    if values is None:
        values = ()
    area = item.get("area")
    form: Convention = convention or item.get("form") or "xyxy"
    return ImageObject(
        to_corners(values, form, size) if is_numbers(values) else None,
        values,
        form,
        _first(item, CATEGORY_NAMES),
        bool(item.get("iscrowd")),
        float(area) if area else None,
        str(item.get("place") or ""),
        str(item.get("fault") or ""),
        not (convention or item.get("form")),
    )


def find_convention(boxes: Sequence[tuple[Sequence[float], tuple[int, int]]]) -> Convention | None:
    """Return the only convention in which all boxes fit; None if several fit, or none.

    `boxes` are pairs of a box and the size (H, W) of its image.
    """
    fitting = [
        convention
        for convention in CONVENTIONS
        if boxes and all(fits(box, convention, size) for box, size in boxes)
    ]
    return fitting[0] if len(fitting) == 1 else None


def box_fault(item: ImageObject, size: tuple[int, int]) -> tuple[str, bool]:
    """Return the fault of a box in an image of `size` (H, W), "" if none, and if clipping fixes it.

    Clipping cuts a box at the borders of the image, and drops it if no area is left.
    """
    if item.fault:
        return item.fault, False
    if item.box is None:
        return f"box {list(item.values)!r:.80} is not four numbers", False
    convention = item.form
    left, top, right, bottom = item.box
    values = ", ".join(f"{float(value):g}" for value in item.values)
    shown = f"box [{values}]"
    if fits(item.values, convention, size):
        return "", False
    others = [form for form in CONVENTIONS if fits(item.values, form, size) and form != convention]
    cause = (
        f"; it would fit as {_spell_out(others[0])}: try task.boxes={others[0]}" if others else ""
    )
    shares = [0 <= float(value) <= 1 for value in item.values]
    if all(shares) and not convention.endswith("shares"):
        return f"{shown} has no value over 1, like shares of the image size{cause}", False
    if right < left or bottom < top:
        return f"{shown} is reversed: right < left or bottom < top{cause}", False
    if right == left or bottom == top:
        return f"{shown} is empty: its width or height is 0{cause}", True
    if convention in ("xywh", "cxcywh") and tuple(item.values[2:]) == (size[1], size[0]):
        return f"{shown} has the width and height of the image instead of its own", False
    outside = right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]
    how = "is outside" if outside else "extends beyond"
    return f"{shown} {how} the image of {size[1]} x {size[0]} pixels{cause}", True


def _spell_out(convention: Convention) -> str:
    form, _, shares = convention.partition("-")
    return f"{_WORDS[form]}{' in shares of the image size' if shares else ''}"
