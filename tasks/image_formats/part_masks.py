"""Folders with several binary masks per image: one for each object, or one for each class.

    1a2b/images/1a2b.png  1a2b/masks/*.png                Data Science Bowl 2018: objects
    images/1.jpg          masks/1_0.png  masks/1_1.png    objects, also masks/1/0.png
    images/1.jpg          masks/cat/1.png  masks/dog/1.png    classes, also masks/1_cat.png

Masks of objects do not say of which class they are: all are of the class `object`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file
from finetune.listing.split_names import split_name, splits_of_siblings
from finetune.listing.walking import list_readable, walk_visible
from tasks.exports.export_images import number_categories
from tasks.exports.outlines import Mask, set_mask
from tasks.image.image_reading import picture_size
from tasks.image.image_search import refuse_images_key
from tasks.mask_sources.mask_files import read_mask
from tasks.mask_sources.mask_layouts import bare_name, find_layout, may_be_mask
from tasks.objects.annotated import Annotated, AnnotatedImage, mask_row

_OBJECT = "object"
_LOOKED_AT = 50  # folders of an image each
_SHOWN = 3
_OVERLAP = 1.5  # pixels painted by pixels covered from which the masks show the same
_TAIL = re.compile(r"[-_. ]+([^-_. ]+)")


class _Part(NamedTuple):
    """A binary mask of an image: its file, and the class that its name tells."""

    file: Path
    category: str


_Parts = dict[Path, list[_Part]]
"""The masks of each image."""


def find_part_masks(path: Path) -> dict[str, _Parts]:
    """Return the images of every split with their masks; {} if no image has several."""
    if not path.is_dir():
        return {}
    splits = _image_folders(path) or _pairs(path)
    several = any(len(parts) > 1 for images in splits.values() for parts in images.values())
    return splits if several else {}


def _image_folders(path: Path) -> dict[str, _Parts]:
    """Return the masks of folders that each hold one image in images/, and masks/."""
    folders = [child for child in list_readable(path) if child.is_dir()]
    if any((child / "masks").is_dir() for child in islice(folders, _LOOKED_AT)):
        images = dict(filter(None, map(_image_folder, folders)))
        return {"train": images} if images else {}
    names = splits_of_siblings([child.name for child in folders])
    if len(folders) == 1:
        names = {folders[0].name: "train"}
    inside = {split: _image_folders(path / name) for name, split in names.items()}
    return {split: found["train"] for split, found in inside.items() if found}


def _image_folder(folder: Path) -> tuple[Path, list[_Part]] | None:
    images = list(filter(is_image_file, list_readable(folder / "images")))
    masks = list(filter(is_image_file, list_readable(folder / "masks")))
    return (images[0], [_Part(each, _OBJECT) for each in masks]) if len(images) == 1 else None


def _pairs(path: Path) -> dict[str, _Parts]:
    """Return the masks of images/ beside masks/ whose names say more than that of the image."""
    layout = find_layout(path)
    splits = {}
    for split, pair in layout.items():
        if pair.masks is None or pair.masks == pair.images:
            continue
        images = [file for file in walk_visible(pair.images) if is_image_file(file)]
        masks = [file for file in walk_visible(pair.masks) if may_be_mask(file)]
        found = _by_names(images, masks, pair.images, pair.masks)
        if found:
            splits[split] = found
    return splits


def _by_names(
    images: Sequence[Path], masks: Sequence[Path], image_root: Path, mask_root: Path
) -> _Parts:
    """Return the masks of each image if their names tell objects or classes apart, else {}."""
    by_stem = {image.stem: image for image in images}
    if len(by_stem) < len(images):
        return {}
    plain = {bare_name(stem) for stem in by_stem}
    folders = {file.parent for file in masks}
    shares_folders = any((image_root / each.relative_to(mask_root)).is_dir() for each in folders)
    in_folders = mask_root not in folders and not shares_folders
    if not in_folders and any(bare_name(file.stem) in plain for file in masks):
        return {}  # a mask has the name of its image
    found: _Parts = {}
    for file in masks:
        image, category = _owner(file, by_stem, mask_root if in_folders else None)
        if image is None:
            return {}
        found.setdefault(image, []).append(_Part(file, category))
    return {image: found.get(image, []) for image in images} if found else {}


def _owner(file: Path, images: dict[str, Path], mask_root: Path | None) -> tuple[Path | None, str]:
    """Return the image of a mask, and its class, by the name of the file and of its folder."""
    inside = file.relative_to(mask_root).parts[0] if mask_root else ""
    if inside in images:  # masks/1/0.png
        return images[inside], _OBJECT if file.stem.isdecimal() else file.stem
    stem, tail = file.stem, ""
    while stem not in images and (match := re.search(r"[-_. ]+[^-_. ]+$", stem)):
        stem, tail = stem[: match.start()], stem[match.start() :] + tail
    word = _TAIL.fullmatch(tail)
    if inside and split_name(inside) is None:  # masks/cat/1.png
        return images.get(stem), inside
    if inside or word is None:
        return None, ""
    return images.get(stem), _OBJECT if word[1].isdecimal() else word[1]


def read_part_masks(path: Path, config: DataConfig) -> TaskTables:
    """Return rows of segmentation by split, and notes. Raises DataError."""
    refuse_images_key(config, path)
    splits = find_part_masks(path)
    if not splits:
        raise DataError(
            f"{path}: no images with several binary masks each found; expected masks/ beside"
            " images/, with a folder for each class, or a file for each object"
        )
    found = {split: _read(images, path) for split, images in splits.items()}
    images = [image for some in found.values() for image in some]
    objects = [each for image in images for each in image.objects]
    number_categories(objects)
    names = sorted({each.category for each in objects})
    what = "object, whose class they do not tell" if names == [_OBJECT] else "class or object"
    notes = [
        f"{path}: {len(objects)} binary masks, one for each {what}, read as"
        f" {listed(names, _SHOWN)}; all else is background"
    ]
    if bare := sum(not image.objects for image in images):
        notes.append(f"images without masks, read as background: {bare} of {len(images)}")
    rows = {split: list(map(mask_row, some)) for split, some in found.items()}
    return TaskTables(rows, [*notes, *_unread(path, splits)])


def _unread(path: Path, splits: Mapping[str, _Parts]) -> list[str]:
    """Return a note on the files and folders that hold no image or mask that is read."""
    read = {image for images in splits.values() for image in images}
    read |= {each.file for images in splits.values() for some in images.values() for each in some}
    used = {above for file in read for above in file.parents}
    rest = [child.name for child in list_readable(path) if child not in used]
    return [f"{path}: not read: {listed(rest, _SHOWN)}"] if rest else []


def _read(images: _Parts, root: Path) -> list[AnnotatedImage]:
    """Return the images with their objects. Raises DataError if these cover the same pixels."""
    found, covered, painted = [], 0, 0
    for path, parts in images.items():
        name = path.relative_to(root).as_posix()
        image = AnnotatedImage(path.as_posix(), name, place=name)
        masks = []
        for part in parts:
            item = Annotated(part.category, place=part.file.relative_to(root).as_posix())
            try:
                mask = _binary(part.file)
                if not mask.any():
                    continue
                set_mask(item, mask, (0, 0), picture_size(image.image))
                masks.append(mask)
            except (DataError, ValueError) as error:
                item.fault = str(error)
            image.objects.append(item)
        painted += sum(int(mask.sum()) for mask in masks)
        covered += int(np.logical_or.reduce(masks).sum()) if masks else 0
        found.append(image)
    if painted > _OVERLAP * covered:
        parts = max(images.values(), key=len)
        raise DataError(
            f"{root}: the masks of an image show the same pixels ({parts[0].file.name},"
            f" {parts[1].file.name}), so they are not its objects or classes but perhaps the work"
            " of several annotators; keep one mask per image"
        )
    return found


def _binary(file: Path) -> Mask:
    """Return a mask of two values. Raises DataError."""
    values = read_mask(file.as_posix())[0]
    distinct = np.unique(values)
    if len(distinct) > 2 or (len(distinct) == 2 and distinct[0] != 0):
        raise DataError(f"has {len(distinct)} values; the mask of one object or class has 0 and 1")
    return values > 0


PART_MASKS = DataFormat(
    "part-masks",
    lambda path: bool(find_part_masks(path)),
    read_part_masks,
    "masks/ with several binary masks per image",
)
