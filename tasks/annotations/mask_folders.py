"""Folders of pictures and masks -> rows, by split: plain ones, and Pascal VOC.

    train/images/1.jpg  train/masks/1.png          a split holds both
    images/train/1.jpg  annotations/train/1.png    both hold the splits
    images/1.jpg        masks/1.png                no splits
    JPEGImages/1.jpg    SegmentationClass/1.png    ImageSets/Segmentation/train.txt   Pascal VOC

A picture and its mask bear one name, but for an ending such as _mask. Names of classes stand in
classes.txt (a line each, from value 0) or labelmap.txt (name:red,green,blue).

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png", "file": "train/images/1.jpg"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.pictures import is_picture, visible
from finetune.errors import DataError
from finetune.task import Row
from tasks.annotations.coco import find_coco, read_coco, split_of

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

Legend = list[str] | dict[str, list[int]]
"""Names of the values 0, 1, ..., or {name: [red, green, blue]}."""


def read_masks(path: Path, format: str) -> tuple[dict[str, list[Row]] | None, Legend | None]:
    """The splits of a path whose rows have masks, and what its legend says; None: it has none.

    `format` is data.format. Raises DataError if the path is not of a format that is asked for.
    """
    if format in ("auto", "mask-folder", "voc"):
        if found := read_mask_folder(path):
            return found, read_legend(path)
        if format != "auto":
            raise DataError(
                f"{path}: holds no pictures with masks; a folder images/ beside a folder masks/,"
                " each whole or by split, or JPEGImages/ beside SegmentationClass/"
            )
    if format == "coco" or (format == "auto" and find_coco(path)):
        return read_coco(path), None
    return None, None


def read_mask_folder(root: Path) -> dict[str, list[Row]]:
    """The rows of every split; {} if the folder is none of the layouts."""
    if not root.is_dir():
        return {}
    splits: dict[str, list[Row]] = {}
    lists = root / "ImageSets" / "Segmentation"
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


def read_legend(root: Path) -> Legend | None:
    """What classes.txt or labelmap.txt of a folder says of the values; None without either."""
    names, colors = root / "classes.txt", root / "labelmap.txt"
    if names.is_file():
        lines = names.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if not colors.is_file():
        return None
    found: dict[str, list[int]] = {}
    for number, line in enumerate(colors.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            found[name.strip()] = [int(value) for value in rest.partition(":")[0].split(",")]
        except ValueError:
            raise DataError(f"{colors}: line {number} is {line!r}, not name:r,g,b") from None
    return found


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
