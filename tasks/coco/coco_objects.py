"""One annotation of a COCO file as an object: its box, its polygons or its run-length mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.objects.annotated import Annotated
from tasks.objects.boxes import is_numbers, turn_box


def coco_object(
    item: Mapping[str, Any], number: int, category: tuple[str, int], place: str
) -> Annotated:
    """Return the object of an annotation, the `number`th of its file; faults are part of it.

    `category` is (name, number), `place` where the annotation is, for messages.
    """
    object_id = item.get("id") or 0
    outline: dict[str, Any] = {}
    try:
        outline = _outline(item.get("segmentation") or [])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        fault = f"segmentation is neither polygons [[x, y, ...]] nor RLE: {error}"
        outline = {"outline_fault": fault}
    box, fault = item.get("bbox") or [], ""
    try:
        box = [float(value) for value in box]
    except (TypeError, ValueError, OverflowError):
        box, fault = [], f"bbox {item['bbox']!r:.80} is not four numbers"
    degrees = _rotation(item)
    if degrees and is_numbers(box):
        left, top, width, height = box
        left, top, right, bottom = turn_box([left, top, left + width, top + height], degrees)
        box = [left, top, right - left, bottom - top]
    if not box and outline.get("counts"):
        box = _box_around(outline)
    return Annotated(
        category[0],
        box,
        "xywh",
        category_id=category[1],
        number=object_id if type(object_id) is int else number,
        area=float(item.get("area") or 0),
        iscrowd=int(item.get("iscrowd") or 0),
        place=place,
        fault=fault,
        is_turned=bool(degrees),
        **outline,
    )


def _rotation(item: Mapping[str, Any]) -> float:
    """Return the degrees by which a box of CVAT is turned; 0 if it is not."""
    try:
        return float(item["attributes"]["rotation"]) % 360
    except (KeyError, TypeError, ValueError):
        return 0.0


def _outline(segmentation: Any) -> dict[str, Any]:
    """Return the attributes of an object that describe its outline."""
    if isinstance(segmentation, Mapping):
        size = [int(side) for side in segmentation["size"]]
        return {"counts": _compress(segmentation), "size": size}
    if segmentation and all(isinstance(x, int | float) for x in segmentation):
        segmentation = [segmentation]  # the points of one polygon, as VIA writes them
    polygons = [[float(x) for x in points] for points in segmentation]
    for points in polygons:
        if len(points) % 2:
            raise ValueError(f"a polygon has {len(points)} numbers, not pairs of x and y")
    return {"polygons": polygons}


def _box_around(outline: Mapping[str, Any]) -> list[float]:
    """Return the box around a run-length mask, left, top, width, height; [] if it has none."""
    from faster_coco_eval.core import mask

    try:
        packed = {"size": outline["size"], "counts": outline["counts"].encode()}
        return [float(value) for value in mask.toBbox(packed)]
    except (ValueError, RuntimeError):  # which validation of the outline reports
        return []


def _compress(rle: Mapping[str, Any]) -> str:
    """Return the compressed RLE string; `rle` may be uncompressed, with a list of numbers."""
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts
    from faster_coco_eval.core import mask

    height, width = rle["size"]
    packed: bytes = mask.frPyObjects(dict(rle), height, width)["counts"]
    return packed.decode()
