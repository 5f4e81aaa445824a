"""Folders of pictures and masks -> rows, by split: plain ones, and Pascal VOC.

    train/images/1.jpg  train/masks/1.png          a split holds both
    images/train/1.jpg  annotations/train/1.png    both hold the splits
    images/1.jpg        masks/1.png                no splits
    JPEGImages/1.jpg    SegmentationClass/1.png    ImageSets/Segmentation/train.txt   Pascal VOC

A picture and its mask bear one name, but for an ending such as _mask. Names of classes stand in a
legend, see `tasks.annotations.legends`.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png", "file": "train/images/1.jpg"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.config.formats import DataFormat, TaskTables
from finetune.data.image_files import is_picture, visible
from finetune.errors import DataError, listed
from finetune.task_parts import Row
from tasks.annotations.coco import find_coco, read_coco, split_of
from tasks.annotations.legends import read_legend

PICTURES = ("images", "image", "imgs", "img", "jpegimages", "photos")
MASKS = (
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
_ENDING = re.compile(r"[-_ ](masks?|labels?|gt|seg|annotations?|trainids|labelids)$", re.IGNORECASE)

_SHOWN = 3
_LISTS = Path("ImageSets") / "Segmentation"


def has_masks(path: Path) -> bool:
    """Whether a folder holds images with masks."""
    return path.is_dir() and bool(read_mask_folder(_home(path)))


def read_masks(path: Path) -> TaskTables:
    """The rows of a folder of images and masks, and the classes that its legend names.

    Raises DataError if there are none.
    """
    home = _home(path) if path.is_dir() else path
    found = read_mask_folder(home)
    if not found:
        raise DataError(
            f"{path}: holds no pictures with masks; a folder images/ beside a folder masks/,"
            " each whole or by split, or JPEGImages/ beside SegmentationClass/"
        )
    # Those that no list of Pascal VOC names are of other splits.
    lone = [] if (home / _LISTS).is_dir() else lone_masks(found)
    named = listed(lone, _SHOWN)
    note = f"masks without a picture, which are not used: {len(lone)}, {named}"
    legend = read_legend(home)
    return TaskTables(found, [note] if lone else [], {"labels": legend} if legend else {})


def read_mask_folder(root: Path) -> dict[str, list[Row]]:
    """The rows of every split; {} if the folder is none of the layouts."""
    if not root.is_dir():
        return {}
    splits: dict[str, list[Row]] = {}
    lists = root / _LISTS
    folders = {child.name: child for child in visible(root) if child.is_dir()}
    pair = _pair(root)
    if pair and lists.is_dir():
        rows = {Path(row["image"]).stem: row for row in _rows(*pair, root)}
        for file in sorted(lists.glob("*.txt")):
            names = file.read_text(encoding="utf-8").split()
            if split := split_of(file.stem):
                splits[split] = [rows[name] for name in names if name in rows]
    elif pair:
        below = {split: child for child in visible(pair[0]) if (split := split_of(child.name))}
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
    """The masks beside those of rows that are no row's."""
    own = {row["mask"] for rows in splits.values() for row in rows} - {None}
    folders = sorted({Path(mask).parent for mask in own})
    return [
        path
        for folder in folders
        for path in visible(folder)
        if _may_be_mask(path) and path.as_posix() not in own
    ]


def _home(root: Path) -> Path:
    """The folder itself, or the one of Pascal VOC in it, which is then a VOCdevkit."""
    inside = [child for child in visible(root) if (child / _LISTS).is_dir() and _pair(child)]
    if len(inside) > 1:
        names = ", ".join(child.name for child in inside)
        raise DataError(f"{root}: holds {names}; name one: {inside[-1]}")
    return inside[0] if inside else root


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folder of pictures and that of masks in a folder, if it has both."""
    below = {child.name.lower(): child for child in visible(folder) if child.is_dir()}
    pictures = next((below[name] for name in PICTURES if name in below), None)
    masks = next((below[name] for name in MASKS if name in below and _holds(below[name])), None)
    return (pictures, masks) if pictures and masks else None


def _holds(folder: Path) -> bool:
    """Whether masks lie in a folder, and not the text files of another format."""
    return any(_may_be_mask(path) for path in folder.rglob("*"))


def _may_be_mask(path: Path) -> bool:
    return is_picture(path) or path.suffix.lower() == ".npy"


def _rows(pictures: Path, masks: Path, root: Path) -> Iterator[Row]:
    """A row for each picture; its mask is None where there is no such file."""
    by_name: dict[str, Path] = {}
    for path in sorted(masks.rglob("*")) if masks.is_dir() else ():
        if path.is_file() and _may_be_mask(path):
            by_name[_key(path, masks)] = path
    for path in sorted(pictures.rglob("*")):
        if path.is_file() and is_picture(path):
            mask = by_name.get(_key(path, pictures))
            yield {
                "image": path.as_posix(),
                "mask": None if mask is None else mask.as_posix(),
                "file": path.relative_to(root).as_posix(),
            }


def _key(path: Path, root: Path) -> str:
    """The name that a picture and its mask share."""
    inside = path.relative_to(root)
    return (inside.parent / _ENDING.sub("", inside.stem)).as_posix()


MASK_FORMATS = (
    DataFormat("mask-folder", has_masks, read_masks),
    DataFormat("voc", has_masks, read_masks),
    DataFormat(
        "coco", lambda path: bool(find_coco(path)), lambda path: TaskTables(read_coco(path))
    ),
)
