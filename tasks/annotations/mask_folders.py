"""Folders of images and masks, read as rows by split, with Pascal VOC's layout among them.

    train/images/1.jpg  train/masks/1.png          images and masks inside a split
    images/train/1.jpg  annotations/train/1.png    splits inside images and masks
    images/1.jpg        masks/1.png                no splits
    JPEGImages/1.jpg    SegmentationClass/1.png    ImageSets/Segmentation/train.txt   Pascal VOC

An image and its mask have the same name, up to a suffix such as _mask. A legend can name the
classes, see `tasks.annotations.legends`.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png", "file": "train/images/1.jpg"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.config.formats import DataFormat, TaskTables
from finetune.data.image_files import is_image_file, list_visible
from finetune.errors import DataError, listed
from finetune.task_parts import Row
from tasks.annotations.coco import find_coco, read_coco, split_of
from tasks.annotations.legends import read_legend

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos")
_MASK_FOLDERS = (
    "masks",
    "mask",
    "annotations",
    "annotation",
    "labels",
    "label",
    "gt",
    "segmentationclass",
    "segmentationclassraw",
    "segmentations",
)
_SUFFIX = re.compile(r"[-_ ](masks?|labels?|gt|seg|annotations?|trainids|labelids)$", re.IGNORECASE)

_SHOWN = 3
_LISTS = Path("ImageSets") / "Segmentation"


def has_masks(path: Path) -> bool:
    """True if a folder contains images with masks."""
    return path.is_dir() and bool(read_mask_folder(_find_root(path)))


def read_masks(path: Path) -> TaskTables:
    """Read the rows of a folder of images and masks, and task.labels from its legend if it has one.

    Raises DataError if there are no rows.
    """
    root = _find_root(path) if path.is_dir() else path
    splits = read_mask_folder(root)
    if not splits:
        raise DataError(
            f"{path}: no images with masks found; expected a folder images/ beside a folder masks/,"
            " each with or without split folders, or JPEGImages/ beside SegmentationClass/"
        )
    # In Pascal VOC, masks that no list names belong to other splits.
    lone = [] if (root / _LISTS).is_dir() else lone_masks(splits)
    note = f"masks without an image, ignored: {len(lone)} ({listed(lone, _SHOWN)})"
    legend = read_legend(root)
    return TaskTables(splits, [note] if lone else [], {"labels": legend} if legend else {})


def read_mask_folder(root: Path) -> dict[str, list[Row]]:
    """Return the rows of every split; {} if the folder has none of the known layouts."""
    if not root.is_dir():
        return {}
    splits: dict[str, list[Row]] = {}
    lists = root / _LISTS
    folders = {child.name: child for child in list_visible(root) if child.is_dir()}
    pair = _pair(root)
    if pair and lists.is_dir():
        rows = {Path(row["image"]).stem: row for row in _rows(*pair, root)}
        for file in sorted(lists.glob("*.txt")):
            names = file.read_text(encoding="utf-8").split()
            if split := split_of(file.stem):
                splits[split] = [rows[name] for name in names if name in rows]
    elif pair:
        below = {split: child for child in list_visible(pair[0]) if (split := split_of(child.name))}
        for split, child in below.items():
            splits[split] = list(_rows(child, pair[1] / child.name, root))
        if not below:
            splits["train"] = list(_rows(*pair, root))
    else:
        for name, folder in folders.items():
            if (split := split_of(name)) and (inside := _pair(folder)):
                splits[split] = list(_rows(*inside, root))
    return {split: rows for split, rows in splits.items() if rows}


def lone_masks(splits: Mapping[str, Sequence[Row]]) -> list[Path]:
    """Return the masks without an image: those beside the masks of rows that no row uses."""
    used = {row["mask"] for rows in splits.values() for row in rows} - {None}
    folders = sorted({Path(mask).parent for mask in used})
    return [
        path
        for folder in folders
        for path in list_visible(folder)
        if _may_be_mask(path) and path.as_posix() not in used
    ]


def _find_root(root: Path) -> Path:
    """Return the folder itself, or the one of Pascal VOC inside it if it is a VOCdevkit."""
    inside = [child for child in list_visible(root) if (child / _LISTS).is_dir() and _pair(child)]
    if len(inside) > 1:
        names = ", ".join(child.name for child in inside)
        raise DataError(f"{root}: contains {names}; choose one of them, such as {inside[-1]}")
    return inside[0] if inside else root


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """Return the image folder and the mask folder inside a folder, or None if one is missing."""
    below = {child.name.lower(): child for child in list_visible(folder) if child.is_dir()}
    images = next((below[name] for name in _IMAGE_FOLDERS if name in below), None)
    masks = next(
        (below[name] for name in _MASK_FOLDERS if name in below and _has_masks(below[name])), None
    )
    return (images, masks) if images and masks else None


def _has_masks(folder: Path) -> bool:
    """True if a folder contains masks, and not only the text files of another format."""
    return any(_may_be_mask(path) for path in folder.rglob("*"))


def _may_be_mask(path: Path) -> bool:
    return is_image_file(path) or path.suffix.lower() == ".npy"


def _rows(images: Path, masks: Path, root: Path) -> Iterator[Row]:
    """Yield a row per image; its mask is None if the file is missing."""
    by_name: dict[str, Path] = {}
    for path in sorted(masks.rglob("*")) if masks.is_dir() else ():
        if path.is_file() and _may_be_mask(path):
            by_name[_key(path, masks)] = path
    for path in sorted(images.rglob("*")):
        if path.is_file() and is_image_file(path):
            mask = by_name.get(_key(path, images))
            yield {
                "image": path.as_posix(),
                "mask": None if mask is None else mask.as_posix(),
                "file": path.relative_to(root).as_posix(),
            }


def _key(path: Path, root: Path) -> str:
    """Return the name that an image and its mask share."""
    relative = path.relative_to(root)
    return (relative.parent / _SUFFIX.sub("", relative.stem)).as_posix()


MASK_FORMATS = (
    DataFormat("mask-folder", has_masks, read_masks),
    DataFormat("voc", has_masks, read_masks),
    DataFormat(
        "coco", lambda path: bool(find_coco(path)), lambda path: TaskTables(read_coco(path))
    ),
)
