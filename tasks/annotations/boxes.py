"""How a box is written: conventions, and what is wrong with a box, with the likely cause.

A row's objects, whatever file they come from:

    {"bbox": [12.0, 30.5, 80.0, 99.0], "form": "xyxy", "category": "cat", "iscrowd": 0,
     "area": 900.0, "place": "labels/1.txt:3", "fault": ""}

`form`, `place` and `fault` are what a reader of files knows: the convention of its format, where
the object stands, and why it could not be read. A box stays as it is written until it is used, so
that what is said of it can be found in the file.
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
    "cxcywh": "middle x, middle y, width, height",
}
BOX_NAMES = ("bbox", "box", "boxes", "bboxes")
CATEGORY_NAMES = ("category", "label", "labels", "class", "categories", "category_id", "name")
SLACK = 1.0  # pixels by which a rounded box may reach over the border
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
    """An object as a reader of files gives it to a row."""
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
class Object:
    """An object of a picture, read.

    Attributes:
        box: left, top, right, bottom in pixels; None if it cannot be read.
        given: the values as they stand in the row.
        form: how they were read.
    """

    box: tuple[float, float, float, float] | None
    given: Sequence[Any]
    form: Convention
    category: Any
    is_crowd: bool = False
    area: float | None = None
    place: str = ""
    fault: str = ""


def to_corners(
    box: Sequence[float], convention: Convention, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box as left, top, right, bottom in pixels of a picture of `size` (H, W)."""
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


def is_numbers(box: Any) -> bool:
    """Whether a box has four finite numbers."""
    try:
        return len(box) == 4 and all(math.isfinite(float(value)) for value in box)
    except (TypeError, ValueError):
        return False


def fits(box: Sequence[float], convention: Convention, size: tuple[int, int]) -> bool:
    """Whether a box, read so, has an area and lies in the picture."""
    shares = convention.endswith("-shares")
    if shares and max(map(abs, box)) > 1 + SHARE_SLACK:
        return False
    if not shares and max(box) <= 1:  # a box of one pixel or less is hardly meant
        return False
    left, top, right, bottom = to_corners(box, convention, size)
    inside = left >= -SLACK and top >= -SLACK
    inside &= right <= size[1] + SLACK and bottom <= size[0] + SLACK
    return inside and right > left and bottom > top


def objects_in(
    cell: Any, convention: Convention | None = None, size: tuple[int, int] = (1, 1)
) -> list[Object]:
    """The objects of a cell of a picture of `size` (H, W): a list of dicts, or a dict of lists.

    Boxes are read in `convention`; None: in that of their file, else as xyxy. Raises DataError with
    what is wrong with the cell.
    """
    return [_object(item, convention, size) for item in _items(cell)]


def _items(cell: Any) -> list[Mapping[str, Any]]:
    if isinstance(cell, Mapping):
        lengths = {len(values) for values in cell.values()}
        if len(lengths) > 1:
            raise DataError(f"has lists of {sorted(lengths)} values, one of which lacks some")
        count = lengths.pop() if lengths else 0
        return [{name: values[place] for name, values in cell.items()} for place in range(count)]
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        for item in cell:
            if not isinstance(item, Mapping):
                raise DataError(
                    f"holds {item!r:.60}, where a dict with bbox and category is wanted"
                )
        return list(cell)
    raise DataError(f"is {cell!r:.60}, not a list of objects; [] for a picture without any")


def _object(
    item: Mapping[str, Any], convention: Convention | None, size: tuple[int, int]
) -> Object:
    given = next((item[name] for name in BOX_NAMES if item.get(name) is not None), ())
    category = next((item[name] for name in CATEGORY_NAMES if item.get(name) is not None), None)
    area = item.get("area")
    form: Convention = convention or item.get("form") or "xyxy"
    return Object(
        to_corners(given, form, size) if is_numbers(given) else None,
        given,
        form,
        category,
        bool(item.get("iscrowd")),
        float(area) if area else None,
        str(item.get("place") or ""),
        str(item.get("fault") or ""),
    )


def find_convention(boxes: Sequence[tuple[Sequence[float], tuple[int, int]]]) -> Convention | None:
    """The one convention in which all boxes, each with the size of its picture, fit; None: none
    does, or several do.
    """
    fitting = [
        convention
        for convention in CONVENTIONS
        if boxes and all(fits(box, convention, size) for box, size in boxes)
    ]
    return fitting[0] if len(fitting) == 1 else None


def box_fault(seen: Object, size: tuple[int, int]) -> tuple[str, bool]:
    """What is wrong with an object's box in a picture of `size` (H, W), "" if nothing is; and
    whether cutting it at the borders mends that.
    """
    if seen.fault:
        return seen.fault, False
    if seen.box is None:
        return f"box {list(seen.given)!r:.80} is not four numbers", False
    convention = seen.form
    left, top, right, bottom = seen.box
    values = ", ".join(f"{float(value):g}" for value in seen.given)
    shown = f"box [{values}]"
    if fits(seen.given, convention, size):
        return "", False
    others = [form for form in CONVENTIONS if fits(seen.given, form, size) and form != convention]
    cause = (
        f"; it would fit as {_named(others[0])}: is task.boxes={others[0]} meant?" if others else ""
    )
    if max(map(abs, map(float, seen.given))) <= 1 and not convention.endswith("shares"):
        return f"{shown} has no value over 1: are these shares of the picture?{cause}", False
    if right < left or bottom < top:
        return f"{shown} is reversed: its right or bottom lies before its left or top{cause}", False
    if right == left or bottom == top:
        return f"{shown} is empty: it has no width or no height{cause}", True
    outside = right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]
    how = "lies outside" if outside else "reaches out"
    return f"{shown} {how} of the picture of {size[1]} x {size[0]} pixels{cause}", True


def _named(convention: Convention) -> str:
    form, _, shares = convention.partition("-")
    return f"{_WORDS[form]}{' in shares of the picture' if shares else ''}"
