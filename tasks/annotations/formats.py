"""Boxes in the formats that people have -> rows, by split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.task import Row
from tasks.annotations.coco import find_coco, read_coco


def read_boxes(path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
    """The rows of a path in `format`, or in whichever it is under "auto"; None: none of them.

    A row is {"image", "file", "objects"}; see `tasks.annotations.boxes`. Raises DataError.
    """
    for name, is_own, read in READERS:
        if format == name or (format == "auto" and is_own(path)):
            return read(path)
    return None


def _coco_boxes(path: Path) -> dict[str, list[Row]]:
    return {
        split: [{**row, "objects": list(map(_from_coco, row["objects"]))} for row in rows]
        for split, rows in read_coco(path).items()
    }


def _from_coco(item: Mapping[str, Any]) -> dict[str, Any]:
    left, top, width, height = item["bbox"]
    return {
        "bbox": [left, top, left + width, top + height],
        "category": item["category"],
        "iscrowd": item["iscrowd"],
        "area": item["area"],
        "place": "annotation",
        "fault": "",
    }


READERS: tuple[
    tuple[str, Callable[[Path], Any], Callable[[Path], Mapping[str, Sequence[Row]]]], ...
] = (("coco", find_coco, _coco_boxes),)
