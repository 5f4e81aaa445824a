"""CSV of boxes, one per line, read as rows: images with their objects.

    image,class,xmin,ymin,xmax,ymax
    1.jpg,cat,12,30,80,99
    2.jpg,,,,,                          an image without objects

The four numbers are corners (xmin or x1 or left ...), or a corner and a size (x, y, w, h).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.image_files import is_image_file
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import make_annotation

_IMAGE = ("image", "filename", "file_name", "file", "path", "image_path", "img", "image_id")
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
    """True if a file is a table with columns for an image, a class and a box."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        return _columns(next(csv.reader([first], _dialect(first)), [])) is not None
    except (OSError, ValueError, csv.Error):
        return False


def read_box_table(path: Path) -> dict[str, list[Row]]:
    """Return the images of a table, in the order of their first lines, as the split train.

    Raises DataError for a table without these columns or with a malformed line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, dialect=_dialect(first))
        columns = _columns(reader.fieldnames or [])
        if columns is None:
            raise DataError(f"{path}: has no columns for an image, a class and a box")
        image, category, sides, form = columns
        rows: dict[str, Row] = {}
        try:
            for line in reader:
                name = (line[image] or "").strip()
                if not name:
                    raise DataError(f"{path}, line {reader.line_num}: has no image name")
                row = rows.get(name)
                if row is None:
                    image_path = _find_image(path.parent, name)
                    row = rows[name] = {"image": image_path, "file": name, "objects": []}
                if any((line[column] or "").strip() for column in (*sides, category)):
                    place = f"{path.name}:{reader.line_num}"
                    row["objects"].append(_object(line, category, sides, form, place))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read: {error}") from error
    return {"train": list(rows.values())}


def _dialect(first: str) -> type[csv.Dialect]:
    """Return the CSV dialect with the delimiter that is most frequent in the header line."""

    class Detected(csv.excel):
        delimiter = max([",", ";", "\t"], key=first.count)

    return Detected


def _columns(names: Sequence[str]) -> tuple[str, str, tuple[str, ...], str] | None:
    """Return the columns of the image, the class and the four numbers, and their convention."""
    by_lower = {name.strip().lower(): name for name in names if name}
    image = next((by_lower[name] for name in _IMAGE if name in by_lower), None)
    category = next((by_lower[name] for name in _CLASS if name in by_lower), None)
    if image is None or category is None:
        return None
    for form, choices in (("xyxy", _CORNERS), ("xywh", _SIZED)):
        for sides in choices:
            if all(side in by_lower for side in sides):
                return image, category, tuple(by_lower[side] for side in sides), form
    return None


def _find_image(folder: Path, name: str) -> str:
    """Return the path of an image: in the table's folder, or in images/ below it."""
    places = [folder / name, folder / "images" / name, Path(name)]
    if not is_image_file(name):  # Kaggle's image_id has no file extension
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
