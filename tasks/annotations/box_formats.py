"""Box annotation formats, read as rows by split.

COCO        a .json file, or a folder with such files
YOLO        data.yaml, obj.data or classes.txt, or a folder with one of them
Pascal VOC  Annotations/*.xml and JPEGImages/, or .xml files beside the images
CSV         one box per line, with columns for the image, the class and four numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.task_parts.samples import Row
from tasks.annotations.box_table import find_box_tables, read_box_tables
from tasks.annotations.voc import find_voc, read_voc
from tasks.annotations.yolo import read_yolo_boxes
from tasks.annotations.yolo_sources import find_yolo
from tasks.coco.coco import read_coco
from tasks.coco.coco_files import find_coco
from tasks.objects.annotated import AnnotatedImage, box_row

COCO_FILES = "COCO (.json with images, annotations and categories)"
_YOLO_FILES = "YOLO (data.yaml, obj.data, or label files .txt for images)"
Images = Mapping[str, Sequence[AnnotatedImage]]


def read_coco_boxes(path: Path, config: DataConfig) -> TaskTables:
    """Read the boxes of a COCO file or folder."""
    splits, notes = read_coco(path, config)
    return TaskTables(to_rows(splits, box_row), notes)


def read_voc_boxes(path: Path, config: DataConfig) -> TaskTables:
    """Read the boxes of a folder of Pascal VOC."""
    read = read_voc(path, config)
    return TaskTables(to_rows(read.splits, box_row), read.notes, unusable=read.unusable)


def read_table_boxes(path: Path, config: DataConfig) -> TaskTables:
    """Read tables with one box per line."""
    splits, notes = read_box_tables(path, config)
    return TaskTables(to_rows(splits, box_row), notes)


def to_rows(splits: Images, make_row: Callable[[AnnotatedImage], Row]) -> dict[str, list[Row]]:
    """Return the rows of all splits."""
    return {split: list(map(make_row, images)) for split, images in splits.items()}


def _format(name: str, find: Callable[[Path], Any], read: Any, looks_for: str) -> DataFormat:
    return DataFormat(name, lambda path: bool(find(path)), read, looks_for)


BOX_FORMATS = (
    _format("coco", find_coco, read_coco_boxes, COCO_FILES),
    _format("yolo", find_yolo, read_yolo_boxes, _YOLO_FILES),
    _format("voc", find_voc, read_voc_boxes, "Pascal VOC (.xml files with <annotation>)"),
    _format("csv", find_box_tables, read_table_boxes, "a table with one box per line (.csv)"),
    _format("tsv", find_box_tables, read_table_boxes, ""),
)
