"""Box annotation formats, read as rows by split.

COCO        a .json file, or a folder with such files
YOLO        data.yaml, or its folder
Pascal VOC  Annotations/*.xml and JPEGImages/, or .xml files beside the images
CSV         one box per line, with columns for the image, the class and four numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.formats import DataFormat, TaskTables
from finetune.task_parts import Row
from tasks.annotations.box_table import is_box_table, read_box_table
from tasks.annotations.boxes import make_annotation
from tasks.annotations.coco import find_coco, read_coco
from tasks.annotations.voc import find_voc, read_voc
from tasks.annotations.yolo import find_yolo, read_yolo


def _coco_boxes(path: Path) -> dict[str, list[Row]]:
    return {split: list(map(_from_coco, rows)) for split, rows in read_coco(path).items()}


def _from_coco(row: Row) -> Row:
    # A fault of the segmentation does not make the box faulty: it is left out here.
    objects = [
        make_annotation(
            item["bbox"],
            "xywh",
            item["category"],
            item["place"],
            iscrowd=item["iscrowd"],
            area=item["area"],
        )
        for item in row["objects"]
    ]
    return {"image": row["image"], "file": row["file"], "objects": objects}


def _format(
    name: str,
    find: Callable[[Path], Any],
    read: Callable[[Path], Mapping[str, Sequence[Row]]],
) -> DataFormat:
    return DataFormat(name, lambda path: bool(find(path)), lambda path: TaskTables(read(path)))


BOX_FORMATS = (
    _format("coco", find_coco, _coco_boxes),
    _format("yolo", find_yolo, read_yolo),
    _format("voc", find_voc, read_voc),
    _format("csv", is_box_table, read_box_table),
    _format("tsv", is_box_table, read_box_table),
)
