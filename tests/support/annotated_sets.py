"""Small annotated datasets in the layouts of annotation tools, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_splits
from finetune.errors import DataError
from finetune.task import Task
from tasks import ObjectDetection, Segmentation

SIZE = (96, 72)  # (width, height) of the images
BOX = (76, 41, 90, 55)  # left, top, right, bottom of the object in every image
LINE = "1 0.864583 0.666667 0.145833 0.194444"
"""The object as a line of YOLO."""
MASK = np.zeros((SIZE[1], SIZE[0]), np.uint8)
MASK[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1


def save_picture(path: Path, index: int = 0, orientation: int = 1) -> Path:
    """Save an image; with an EXIF orientation, it is shown turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE, (20 * index % 256, 90, 20)).save(path, exif=exif)
    return path


def save_pictures(folder: Path, names: Iterable[str]) -> None:
    for index, name in enumerate(names):
        save_picture(folder / name, index)


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco_content(names: Iterable[str], **changes: Any) -> dict[str, Any]:
    """Return COCO annotations with the object in each image; `changes` replace top-level keys."""
    left, top, right, bottom = BOX
    names = list(names)
    content = {
        "images": [
            {"id": n, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": 10 + n,
                "image_id": n,
                "category_id": 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
            for n in range(len(names))
        ],
        "categories": [{"id": 0, "name": "circle"}, {"id": 1, "name": "square"}],
    }
    return {**content, **changes}


def write_json(path: Path, content: Any) -> Path:
    return write_text(path, json.dumps(content))


def save_masks(folder: Path, names: Iterable[str], values: Any = MASK) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values)).save(path)


def open_set(task: Task, source: Path, **keys: Any) -> Splits:
    keys = {"validation": 0, "test": 0, **keys}
    return open_splits(DataConfig(source=str(source), **keys), task)


def read_boxes(source: Path, **keys: Any) -> tuple[list[list[tuple[Any, ...]]], list[str]]:
    """Return (class, left, top, right, bottom) of the objects in each training image, and notes."""
    task = ObjectDetection(**keys.pop("task", {}))
    splits = open_set(task, source, **keys)
    rows = []
    for row in splits.train:
        objects = task.rows.objects.read(row, image_size(row["image"]))
        rows.append([(each.category, *(round(x) for x in each.box or ())) for each in objects])
    return rows, splits.notes


def image_size(path: str) -> tuple[int, int]:
    from tasks.image.image_reading import picture_size

    return picture_size(path)


def read_classes(source: Path, **keys: Any) -> tuple[list[list[list[int]]], list[str]]:
    """Return the class of each pixel of the training images, and notes."""
    task = Segmentation(**keys.pop("task", {}))
    splits = open_set(task, source, **keys)
    masks = task.rows.masks
    coding, _ = masks.learn(splits.train)
    notes = [*splits.notes, coding.describe()]
    classes = [masks.classes(row, image_size(row["image"]), coding) for row in splits.train]
    return [each.tolist() for each in classes if each is not None], notes


def refusal(source: Path, task: Task | None = None, **keys: Any) -> str:
    """Return the message with which a source is refused."""
    try:
        open_set(task or ObjectDetection(), source, **keys)
    except DataError as error:
        return str(error)
    raise AssertionError(f"{source} is not refused")
