"""Columns of a table with one box per line: their names in the dialects of tools.

image,class,xmin,ymin,xmax,ymax                 corners
filename,label,x,y,w,h                          a corner and a size
image_id,width,height,bbox,source               four numbers as text: "[12, 30, 68, 69]"
ImageID,LabelName,XMin,XMax,YMin,YMax           OpenImages, in shares of the image size
images/1.jpg,12,30,80,99,cat                    no header: RetinaNet
TRAIN,gs://b/1.jpg,cat,0.1,0.2,,,0.5,0.6,,      no header: AutoML, in shares
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.listing.image_paths import is_image_file

_IMAGE = (
    "image",
    "filename",
    "file_name",
    "file",
    "path",
    "image_path",
    "img",
    "image_id",
    "imageid",
    "image_name",
    "img_path",
    "img_name",
    "image_file",
)
_CLASS = (
    "class",
    "label",
    "category",
    "name",
    "class_name",
    "category_name",
    "labelname",
    "label_name",
    "classname",
    "class_id",
    "category_id",
    "region_label",
)
_SPLIT = ("split", "set", "subset", "partition", "usage")
_CROWD = ("iscrowd", "is_crowd", "isgroupof")
_SIZES = (("width", "height"), ("image_width", "image_height"), ("img_width", "img_height"))
_ONE_CELL = ("bbox", "box", "bounding_box", "boundingbox")
_SIDES = {
    "xyxy": (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x_min", "y_min", "x_max", "y_max"),
        ("x1", "y1", "x2", "y2"),
        ("x0", "y0", "x1", "y1"),
        ("left", "top", "right", "bottom"),
    ),
    "cxcywh": (
        ("x_center", "y_center", "width", "height"),
        ("center_x", "center_y", "width", "height"),
        ("xc", "yc", "w", "h"),
        ("cx", "cy", "w", "h"),
    ),
    "xywh": (
        ("x", "y", "bbox_width", "bbox_height"),
        ("xmin", "ymin", "bbox_width", "bbox_height"),
        ("x", "y", "w", "h"),
        ("x", "y", "width", "height"),
        ("left", "top", "width", "height"),
        ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
        ("x_min", "y_min", "width", "height"),
        ("xmin", "ymin", "width", "height"),
        ("xmin", "ymin", "w", "h"),
    ),
}
_AUTOML = {"train", "training", "validation", "validate", "test", "unassigned"}
_NUMBER = re.compile(r"-?\d+([.,]\d+)?$")


@dataclass(frozen=True)
class BoxColumns:
    """The columns of a table of boxes, by their positions.

    Attributes:
        names: all columns in order.
        image, category, split, crowd: positions; None: there is no such column.
        sides: positions of the four numbers; of one column if they are in one cell.
        form: their convention in pixels; "" if the table does not say.
        size: positions of the width and the height of the image; () if not stated.
        has_header: True if the first line is the header.
        other_classes: positions of further columns that may be the class.
    """

    names: Sequence[str]
    image: int
    category: int | None
    sides: tuple[int, ...]
    form: str
    split: int | None = None
    crowd: int | None = None
    size: tuple[int, ...] = ()
    has_header: bool = True
    other_classes: tuple[int, ...] = ()

    @property
    def unread(self) -> list[str]:
        """The names of the columns that are not read."""
        read = {self.image, self.category, self.split, self.crowd, *self.sides, *self.size}
        return [name for index, name in enumerate(self.names) if name and index not in read]


def find_box_columns(first: Sequence[str]) -> BoxColumns | None:
    """Return the columns of a table by its first line; None if it is not a table of boxes."""
    return _by_header(first) or _without_header(first)


def _by_header(names: Sequence[str]) -> BoxColumns | None:
    at = {name.strip().lower(): index for index, name in reversed(list(enumerate(names)))}

    def pick(choices: Sequence[str]) -> int | None:
        return next((at[name] for name in choices if name in at), None)

    image = pick(_IMAGE)
    if image is None:
        return None
    found = [
        (form, tuple(at[side] for side in sides))
        for form, choices in _SIDES.items()
        for sides in choices
        if all(side in at for side in sides)
    ]
    one_cell = pick(_ONE_CELL)
    if not found and one_cell is not None:
        found = [("", (one_cell,))]
    if not found:
        return None
    form, sides = found[0]
    sizes = (tuple(at[side] for side in pair) for pair in _SIZES if all(s in at for s in pair))
    size = next((pair for pair in sizes if not set(pair) & set(sides)), ())
    classes = [at[name] for name in _CLASS if name in at]
    split, crowd = pick(_SPLIT), pick(_CROWD)
    return BoxColumns(
        names,
        image,
        classes[0] if classes else None,
        sides,
        form,
        split,
        crowd,
        size,
        other_classes=tuple(each for each in classes[1:] if each != at.get("name")),
    )


def _without_header(cells: Sequence[str]) -> BoxColumns | None:
    words = [cell.strip() for cell in cells]
    are_numbers = all(map(_NUMBER.match, words[1:5])) or not any(words[1:])
    if len(words) == 6 and is_image_file(words[0]) and are_numbers:
        names = ["image", "xmin", "ymin", "xmax", "ymax", "class"]
        return BoxColumns(names, 0, 5, (1, 2, 3, 4), "xyxy", has_header=False)
    if len(words) >= 9 and words[0].lower() in _AUTOML and is_image_file(words[1]):
        names = ["set", "image", "class", "xmin", "ymin", "", "", "xmax", "ymax", "", ""]
        return BoxColumns(names, 1, 2, (3, 4, 7, 8), "xyxy", split=0, has_header=False)
    return None
