"""A CSV with a box a line -> rows: pictures with their objects.

    image,class,xmin,ymin,xmax,ymax
    1.jpg,cat,12,30,80,99
    2.jpg,,,,,                          a picture without objects

The four numbers are corners (xmin or x1 or left ...) or a corner and a size (x, y, w, h).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.image_files import is_picture
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import make_annotation

_PICTURE = ("image", "filename", "file_name", "file", "path", "image_path", "img", "image_id")
_CLASS = ("class", "label", "category", "name", "class_name", "category_name")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZED = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
)
_SUFFIXES = (".csv", ".tsv")


def is_box_table(path: Path) -> bool:
    """Whether a file is a table with the columns of a picture, a class and a box."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        return _columns(next(csv.reader([first], _dialect(first)), [])) is not None
    except (OSError, ValueError, csv.Error):
        return False


def read_box_table(path: Path) -> dict[str, list[Row]]:
    """The pictures of a table in the order of their first line, as the split train.

    Raises DataError.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, dialect=_dialect(first))
        columns = _columns(reader.fieldnames or [])
        if columns is None:
            raise DataError(f"{path}: has no columns of a picture, a class and a box")
        picture, category, sides, form = columns
        rows: dict[str, Row] = {}
        try:
            for line in reader:
                name = (line[picture] or "").strip()
                if not name:
                    raise DataError(f"{path}, line {reader.line_num}: names no picture")
                row = rows.get(name)
                if row is None:
                    place = _lead(path.parent, name)
                    row = rows[name] = {"image": place, "file": name, "objects": []}
                if any((line[column] or "").strip() for column in (*sides, category)):
                    where = f"{path.name}:{reader.line_num}"
                    row["objects"].append(_object(line, category, sides, form, where))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read: {error}") from error
    return {"train": list(rows.values())}


def _dialect(first: str) -> type[csv.Dialect]:
    """Of the line of names: what stands between most of them."""

    class Found(csv.excel):
        delimiter = max([",", ";", "\t"], key=first.count)

    return Found


def _columns(names: Sequence[str]) -> tuple[str, str, tuple[str, ...], str] | None:
    """The columns of picture, class and the four numbers, and what these are."""
    by_lower = {name.strip().lower(): name for name in names if name}
    picture = next((by_lower[name] for name in _PICTURE if name in by_lower), None)
    category = next((by_lower[name] for name in _CLASS if name in by_lower), None)
    if picture is None or category is None:
        return None
    for form, choices in (("xyxy", _CORNERS), ("xywh", _SIZED)):
        for sides in choices:
            if all(side in by_lower for side in sides):
                return picture, category, tuple(by_lower[side] for side in sides), form
    return None


def _lead(folder: Path, name: str) -> str:
    """The picture's path: from the table's folder, or from images/ in it."""
    places = [folder / name, folder / "images" / name, Path(name)]
    if not is_picture(name):  # Kaggle's image_id
        places = [folder / f"{name}{suffix}" for suffix in (".jpg", ".png", ".jpeg")] + [
            folder / "images" / f"{name}{suffix}" for suffix in (".jpg", ".png", ".jpeg")
        ]
    return next((place for place in places if place.is_file()), places[0]).as_posix()


def _object(
    line: Mapping[str, Any], category: str, sides: Sequence[str], form: str, place: str
) -> dict[str, Any]:
    words = [(line[side] or "").strip() for side in sides]
    box, fault = [], ""
    try:
        box = [float(word) for word in words]
    except ValueError:
        fault = f"box {words} is not four numbers"
    return make_annotation(box, form, (line[category] or "").strip(), place, fault)
