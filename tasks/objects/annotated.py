"""Images with their objects, as annotation tools write them, and the rows made of them.

A reader of a format builds an `AnnotatedImage` for each image; `box_row` makes it a row of object
detection, `mask_row` one of segmentation. Coordinates are in pixels of the upright image, unless
the `form` of a box says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from finetune.task_parts.samples import Row
from tasks.objects.boxes import is_numbers, make_annotation, to_corners
from tasks.objects.polygons import bounds

_NEAR = 2.0  # pixels by which the border of a box may differ from that of the outline
_MOST = 0.9  # share of the boxes that another convention must fit
_FEW = 0.5  # share of the boxes below which the stated convention is in doubt
_SOME = 3  # boxes with an outline that are evidence
IGNORED = "__ignore__"
"""The category of areas that labelme leaves out of training."""
NAMED = 1 << 30
"""The smallest number of a category that is made of its name."""


@dataclass
class Annotated:
    """One object of an image: a category with a box, an outline, or both.

    Attributes:
        category: the class name.
        box: four numbers in the convention `form`; empty: the box around the polygons.
        polygons: [x, y, x, y, ...] of each part of the outline.
        counts: compressed RLE string of a mask of `size` (H, W); "" if there is none.
        category_id: number of the category, for masks.
        number: number of the object in its file.
        place: where the object is in its file, for messages.
        fault: why the object could not be read.
        is_turned: True if the box is the one around a turned box.
        outline_fault: why its outline could not be read; the box is valid.
    """

    category: str
    box: Sequence[float] = ()
    form: str = "xyxy"
    polygons: list[list[float]] = field(default_factory=list)
    counts: str = ""
    size: list[int] = field(default_factory=list)
    category_id: int = 0
    number: int = 0
    area: float = 0.0
    iscrowd: int = 0
    place: str = ""
    fault: str = ""
    outline_fault: str = ""
    is_turned: bool = False

    def in_form(self) -> tuple[list[float], str]:
        """Return the box and its convention: its own, else the box around the polygons."""
        if self.box or not any(self.polygons):
            return list(self.box), self.form
        left, top, right, bottom = bounds(self.polygons)
        return [left, top, right - left, bottom - top], "xywh"


@dataclass
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        image: path of the image.
        file: name of the image for messages.
        objects: its objects; [] if there are none.
        size: (H, W) in pixels as the annotations state it; None: not stated.
        place: where the image is in its file, for messages.
        content: None if the images of the set are files; else the bytes of an image that is stored
            in the annotations, b"" for a file among them.
        labels: classes of the whole image; None if it is not annotated with any.
    """

    image: str
    file: str
    objects: list[Annotated] = field(default_factory=list)
    size: tuple[int, int] | None = None
    place: str = ""
    content: bytes | None = None
    labels: list[str] | None = None

    @property
    def cell(self) -> Any:
        """The image as a cell of a row: its path, or {"bytes", "path"}."""
        if self.content is None:
            return self.image
        return {"bytes": self.content or None, "path": self.image}


def refuse_repeated(images: Iterable[AnnotatedImage]) -> None:
    """Give a fault to each image of a split that is annotated in two places.

    Each of its rows would teach that the objects of the others are background.
    """
    first: dict[str, AnnotatedImage] = {}
    for image in images:
        other = first.setdefault(image.image, image)
        if other is not image:
            fault = f"its image is also annotated in {other.place}; keep one of them"
            image.objects.insert(0, Annotated("", place=image.place, fault=fault))


def note_turned_boxes(images: Sequence[AnnotatedImage]) -> list[str]:
    """Return a note on the boxes that are turned in their files."""
    turned = sum(each.is_turned for image in images for each in image.objects)
    return [f"turned boxes read as the boxes around them: {turned}"] if turned else []


def settle_form(images: Sequence[AnnotatedImage]) -> Iterator[str]:
    """Read boxes of left, top, width, height as corners if their outlines show that they are.

    Some programs write corners, which also fit the image while objects are small. Yields a note;
    boxes that differ from their outlines in another way are counted.
    """
    objects = [each for image in images for each in image.objects]
    pairs = [each for each in objects if is_numbers(each.box) and any(each.polygons)]
    if len(pairs) < _SOME:
        return
    fitting = sum(_fits(each, "xywh") for each in pairs)
    if fitting >= _FEW * len(pairs):
        return
    if sum(_fits(each, "xyxy") for each in pairs) >= _MOST * len(pairs):
        for each in objects:
            each.form = "xyxy"
        yield (
            "warning: boxes are left, top, right, bottom and not left, top, width, height, as"
            f" {len(pairs)} outlines show"
        )
    else:
        yield (
            f"warning: {len(pairs) - fitting} of {len(pairs)} boxes are not those around their"
            " outlines; look at them with `finetune inspect --draw`"
        )


def _fits(item: Annotated, form: str) -> bool:
    corners = to_corners(item.box, form, (1, 1))  # type: ignore[arg-type]
    around = bounds(item.polygons)
    return all(abs(one - other) <= _NEAR for one, other in zip(corners, around, strict=True))


def box_row(item: AnnotatedImage) -> Row:
    """Return a row of object detection."""
    return {"image": item.cell, "file": item.file, "objects": list(map(_box_object, item.objects))}


def mask_row(item: AnnotatedImage) -> Row:
    """Return a row of segmentation: the mask is given by the outlines of the objects."""
    objects = list(map(_mask_object, item.objects))
    return {"image": item.cell, "file": item.file, "objects": objects}


def label_row(item: AnnotatedImage, *, several: bool) -> Row:
    """Return a row of image classification, with all labels of the image or its first one."""
    labels = item.labels or []
    label = labels if several else next(iter(labels), None)
    return {"image": item.cell, "label": label, "file": item.file}


def number_of_name(name: str) -> int:
    """Return a number for a category that its format does not number.

    Files that are read one by one give a name the same number.
    """
    return NAMED + crc32(name.encode("utf-8", "surrogatepass")) % NAMED


def _box_object(item: Annotated) -> dict[str, Any]:
    box, form = item.in_form()
    return make_annotation(
        box, form, item.category, item.place, item.fault, item.iscrowd, item.area
    )


def _mask_object(item: Annotated) -> dict[str, Any]:
    # The order of the keys is part of the digest by which a resumed run notices edited masks.
    return {
        "id": item.number,
        "category": item.category,
        "category_id": item.category_id,
        "bbox": item.in_form()[0],
        "area": item.area,
        "iscrowd": item.iscrowd,
        "polygons": item.polygons,
        "counts": item.counts,
        "size": item.size,
        "fault": item.fault or item.outline_fault,
        "place": item.place,
    }
