"""labelme: one .json file per image, or one folder per image with a mask.

    1.json  1.jpg                     {"shapes": [{"label", "shape_type", "points"}], "imagePath"}
    labels/train/1.json  images/train/1.jpg
    1_json/img.png  1_json/label.png  1_json/label_names.txt

The format is that of github.com/wkentaro/labelme; other tools write it too, such as X-AnyLabeling.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.schema import DataConfig
from finetune.errors import DataError, format_count
from finetune.listing.image_paths import is_readable_file
from finetune.listing.split_names import split_name
from finetune.listing.walking import walk_visible
from tasks.exports.export_files import (
    as_dict,
    as_list,
    json_head,
    label_name,
    load_json,
    naming_file,
    no_export,
)
from tasks.exports.export_images import Reading, Splits, find_images, finish_reading, local_name
from tasks.exports.outlines import (
    decode_bitmap,
    ellipse_outline,
    point_numbers,
    set_mask,
    set_outline,
)
from tasks.mask_sources.mask_files import read_mask
from tasks.objects.annotated import IGNORED, Annotated, AnnotatedImage

BACKGROUND_SHAPE = "_background_"
"""The label of shapes, and of the value 0 of masks, that belong to no class."""
_LOOKED_AT = 20  # .json files of a folder by which it is recognized
_FLAGGED = 200  # of them, those that may tell that images have flags
_OTHER_KEYS = {"imagePath", "imageData", "imageHeight", "imageWidth"}
_NEEDS = "an object with shapes, each with a label and points, and imagePath"
_FOLDER = "_json"
_UNREAD = {"point": "points", "line": "lines", "linestrip": "lines", "points": "points"}


def is_labelme(file: Path) -> bool:
    """True if a file begins like an annotation of labelme."""
    head = json_head(file)
    keys = head.at(1)
    has_shapes = "shapes" in keys and bool(keys & _OTHER_KEYS or "points" in head.at(3))
    return head.bracket == "{" and has_shapes


def find_labelme(path: Path) -> list[Path]:
    """Return the .json files of labelme at a path; [] if there are none."""
    if not path.is_dir():
        return [path] if path.is_file() and is_labelme(path) else []
    files = [file for file in walk_visible(path) if file.suffix.lower() == ".json"]
    return files if any(map(is_labelme, islice(files, _LOOKED_AT))) else []


def find_labelme_flags(path: Path) -> list[Path]:
    """Return the .json files of labelme whose images have flags; [] if the first ones have none."""
    files = find_labelme(path)
    return files if any(map(_has_flags, filter(is_labelme, files[:_FLAGGED]))) else []


def _has_flags(file: Path) -> bool:
    try:
        flags = load_json(file).get("flags")
    except (DataError, AttributeError):
        return False
    return isinstance(flags, Mapping) and any(flags.values())


def read_labelme(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    files = find_labelme(path)
    mine = [file for file in files if is_labelme(file)]
    if not mine:
        raise no_export(path, "labelme", ".json files with shapes")
    reading = Reading()
    reading.unread["other .json files"] = len(files) - len(mine)
    below = {file.parent for file in mine} - {path, path.parent}
    by_folder: dict[Path, list[tuple[Path, AnnotatedImage]]] = {}
    embedded = 0
    for file in mine:
        image, is_embedded = _read_file(file, path, reading)
        embedded += is_embedded
        by_folder.setdefault(file.parent, []).append((file, image))
        reading.add(image, split_below(file, path))
    for folder, found in by_folder.items():
        place = folder.relative_to(path).as_posix() if folder in below else folder.name
        reading.notes += _find_images(found, place, config)
    used = _take_embedded(by_folder.values())
    if used:
        reading.notes.append(f"images read from imageData of their .json files: {used}")
    reading.unread["images embedded in .json files"] = embedded - used
    reading.unread = +reading.unread
    return finish_reading(reading, config)


def split_below(file: Path, root: Path) -> str:
    """Return the split in the names of the folders between a root and a file, else "train"."""
    parts = file.relative_to(root).parts[:-1] if root.is_dir() else ()
    return next((split for part in parts if (split := split_name(part))), "train")


def _find_images(
    files: Sequence[tuple[Path, AnnotatedImage]], place: str, config: DataConfig
) -> list[str]:
    """Find the images of files in one folder by imagePath, else by the names of the files.

    imagePath tells nothing if it is missing, names another file than an image, or if several files
    have the same one, as copies have.
    """
    first = files[0][0]
    notes = find_images(first, {"": [image for _, image in files]}, config, place)
    uses = Counter(image.image for _, image in files)
    rest = [
        (AnnotatedImage("", file.stem), image)
        for file, image in files
        if uses[image.image] > 1 or not _is_picture(image.image)
    ]
    find_images(first, {"": [by_stem for by_stem, _ in rest]}, config)
    found = [(one, image) for one, image in rest if _is_picture(one.image)]
    for by_stem, image in found:
        image.image = by_stem.image
    if found:
        images = format_count(len(found), "image")
        notes.append(
            f"{place}: {images} found by the name of the .json file, since"
            f" imagePath does not tell them (such as {found[0][1].file})"
        )
    return notes


def _is_picture(path: str) -> bool:
    return is_readable_file(Path(path)) and not path.lower().endswith(".json")


def _take_embedded(folders: Iterable[Sequence[tuple[Path, AnnotatedImage]]]) -> int:
    """Take the images without a file from the imageData of their annotations; count them."""
    pairs = [pair for folder in folders for pair in folder]
    count = 0
    for file, image in pairs:
        if not _is_picture(image.image):
            image.content = _decode_image(load_json(file).get("imageData"))
            if image.content:
                image.image = file.as_posix()
                count += 1
    if count:  # all cells of a column have one type
        for _, image in pairs:
            image.content = image.content or b""
    return count


def _decode_image(value: Any) -> bytes | None:
    """Decode imageData, the base64 of an image file; None if it is something else."""
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value.partition(",")[2] or value) or None
    except ValueError:
        return None


def _read_file(file: Path, root: Path, reading: Reading) -> tuple[AnnotatedImage, bool]:
    """Return the image of a file with its objects, and True if it is embedded there."""
    place = file.relative_to(root).as_posix() if root.is_dir() else file.name
    with naming_file(file, "labelme", _NEEDS):
        content = as_dict(load_json(file), "the file")
        name = local_name(str(content.get("imagePath") or f"{file.stem}.jpg"))
        image = AnnotatedImage("", name, size=stated_size(content), place=place)
        flags = as_dict(content.get("flags") or {}, "flags")
        image.labels = [str(flag) for flag, is_set in flags.items() if is_set] if flags else None
        for number, shape in enumerate(as_list(content["shapes"], "shapes"), start=1):
            item = _read_shape(as_dict(shape, f"shape {number}"), image, reading)
            if item is not None:
                item.place = f"{place}, shape {number}"
                reading.add_object(image, item, shape.get("group_id"))
    return image, bool(content.get("imageData"))


def stated_size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size (H, W) that a file states; None if there is none."""
    try:
        height, width = (int(content[key]) for key in ("imageHeight", "imageWidth"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_shape(
    shape: Mapping[str, Any], image: AnnotatedImage, reading: Reading
) -> Annotated | None:
    """Return the object of a shape; None if shapes of this type are not read."""
    kind = str(shape.get("shape_type") or "polygon")
    if kind in _UNREAD:
        reading.unread[_UNREAD[kind]] += 1
        return None
    if shape.get("label") == BACKGROUND_SHAPE:
        reading.unread[f"shapes of {BACKGROUND_SHAPE}"] += 1
        return None
    item = Annotated("")
    try:
        item.category = label_name(shape.get("label"))
        if kind not in _SHAPES:
            raise ValueError(f"shape_type {kind!r} is unknown")
        _SHAPES[kind](item, point_numbers(shape["points"]), shape, image)
    except KeyError as error:
        item.fault = f"shape has no {error}"
    except ValueError as error:
        item.fault = str(error)
    if kind == "circle" and not item.fault:
        reading.remarks["circles read as polygons"] += 1
    return item


def _add_rectangle(item: Annotated, points: list[float], *_: Any) -> None:
    if len(points) == 8:  # of X-AnyLabeling, which writes all corners
        points = [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
    if len(points) != 4:
        raise ValueError(f"rectangle has {len(points) // 2} points, not 2")
    left, right = sorted(points[::2])
    top, bottom = sorted(points[1::2])
    item.box = [left, top, right, bottom]


def _add_circle(item: Annotated, points: list[float], *_: Any) -> None:
    if len(points) != 4:
        raise ValueError(f"circle has {len(points) // 2} points, not a center and one on its line")
    radius = math.dist(points[:2], points[2:])
    set_outline(item, ellipse_outline(points[0], points[1], radius, radius))


def _add_mask(
    item: Annotated, points: list[float], shape: Mapping[str, Any], image: AnnotatedImage
) -> None:
    if image.size is None:
        raise ValueError("masks need imageHeight and imageWidth")
    left, top = points[:2]
    mask = decode_bitmap(shape.get("mask"), is_packed=False)
    set_mask(item, mask, (round(left), round(top)), image.size)


_SHAPES: dict[str, Callable[..., None]] = {
    "polygon": lambda item, points, *_: set_outline(item, points),
    "rotation": lambda item, points, *_: set_outline(item, points),
    "rectangle": _add_rectangle,
    "circle": _add_circle,
    "mask": _add_mask,
}


# ---- folders of labelme_json_to_dataset


def find_mask_folders(path: Path) -> list[Path]:
    """Return the folders NAME_json with label.png below a path, where there are no .json files."""
    if not path.is_dir():
        return []
    folders = [path] if path.name.endswith(_FOLDER) else sorted(path.rglob(f"*{_FOLDER}"))
    return [folder for folder in folders if (folder / "label.png").is_file()]


def read_mask_folders(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, with the classes of each mask as objects. Raises."""
    reading = Reading()
    for folder in find_mask_folders(path):
        place = folder.relative_to(path).as_posix() if folder != path else folder.name
        image = AnnotatedImage((folder / "img.png").as_posix(), f"{place}/img.png", place=place)
        try:
            values, _ = read_mask(str(folder / "label.png"))
        except DataError as error:
            raise DataError(f"{folder / 'label.png'}: {error}") from error
        names = _label_names(folder)
        for value in np.unique(values).tolist():
            name = names.get(value, "" if value else BACKGROUND_SHAPE)
            if name == BACKGROUND_SHAPE:
                continue
            item = Annotated(name, place=f"{place}/label.png, value {value}")
            set_mask(item, values == value, (0, 0), values.shape)
            if not name:
                item.fault = f"label.png has the value {value}, which label_names.txt does not name"
            image.objects.append(item)
        reading.add(image, split_below(folder / "label.png", path))
    reading.notes.append("read img.png and label.png of each _json folder; not read: label_viz.png")
    return finish_reading(reading, config, lists_images=False)


def _label_names(folder: Path) -> dict[int, str]:
    """Return the names of the values of a mask."""
    file, old = folder / "label_names.txt", folder / "info.yaml"
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    elif old.is_file():
        text = old.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip("'\" ") for line in re.findall(r"^\s*- (.*)$", text, re.MULTILINE)]
    else:
        raise DataError(f"{folder}: has no label_names.txt, which names the values of label.png")
    first = -1 if lines[:1] == [IGNORED] else 0
    return dict(enumerate(lines, start=first))
