"""YOLO annotations, read as rows by split: data.yaml, and a .txt file per image.

    data.yaml              {path: ., train: images/train, val: images/val, names: [cat, dog]}
    images/train/1.jpg
    labels/train/1.txt     one object per line: class, center x, center y, width, height, as shares
                           of the image size; or class, x, y, x, y, ... of a polygon

The format is that of docs.ultralytics.com/datasets/detect. An image without a .txt file, or with an
empty one, has no objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.data.image_files import is_image_file
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import SHARE_SLACK, make_annotation
from tasks.annotations.coco import split_of

_SPLITS = ("train", "val", "valid", "validation", "test")


def find_yolo(path: Path) -> Path | None:
    """Return the .yaml file that describes the dataset at a path; None if it is not YOLO's."""
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    return next((file for file in files if "names" in _content(file, strict=False)), None)


def read_yolo(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every split that data.yaml lists.

    Raises DataError if it is missing or malformed, or if a split has no images.
    """
    file = find_yolo(path)
    if file is None:
        raise DataError(
            f"{path}: no data.yaml of YOLO with names and train found; write one, such as "
            "{train: images/train, val: images/val, names: [cat, dog]}"
        )
    content = _content(file, strict=True)
    names = _names(content["names"], file)
    splits: dict[str, list[Row]] = {}
    for key in _SPLITS:
        if content.get(key):
            sources = content[key] if isinstance(content[key], list) else [content[key]]
            images = [path for each in sources for path in _images(file, content, str(each))]
            splits[split_of(key) or key] = list(_rows(images, names, file.parent))
    if not splits:
        raise DataError(f"{file}: lists no split; set train: and val: to folders of images")
    return splits


def _content(file: Path, *, strict: bool) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if strict:
            raise DataError(f"{file}: cannot be read: {error}") from error
        return {}
    return content if isinstance(content, dict) else {}


def _names(value: Any, file: Path) -> dict[int, str]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value or [])
    try:
        names = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: names is not a list or {{number: name}}: {error}") from error
    if len(set(names.values())) < len(names):
        raise DataError(f"{file}: names has a duplicate; give each class number a distinct name")
    return names


def _images(file: Path, content: Mapping[str, Any], source: str) -> list[Path]:
    """Return the images of a split: those in a folder, or those listed in a .txt file."""
    root = Path(str(content.get("path") or "."))
    # An exported data.yaml often has ../train/images for a folder beside it.
    places = [file.parent / root / source, file.parent / source]
    places.append(file.parent / source.removeprefix("../"))
    place = next((place for place in places if place.exists()), None)
    if place is None:
        searched = ", ".join(dict.fromkeys(map(str, places)))
        raise DataError(
            f"{file}: {source!r} not found as {searched}; fix path: or the folder of the split"
        )
    if place.is_file():
        lines = place.read_text(encoding="utf-8").split("\n")
        return [place.parent / line.strip() for line in lines if line.strip()]
    images = sorted(path for path in place.rglob("*") if is_image_file(path))
    if not images:
        raise DataError(f"{place}: contains no images, but {file} lists it as a split")
    return images


def _rows(images: list[Path], names: Mapping[int, str], root: Path) -> Iterator[Row]:
    for image in images:
        file = _label_file(image)
        place = _short(file, root)
        objects = list(_objects(file, place, names)) if file.is_file() else []
        yield {"image": image.as_posix(), "file": _short(image, root), "objects": objects}


def _label_file(image: Path) -> Path:
    """Return the path of an image's labels: the last `images` in its path becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _objects(file: Path, place: str, names: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            box, category, fault = _parse(line.split(), names)
            yield make_annotation(box, "cxcywh-shares", category, f"{place}:{number}", fault)


def _parse(words: list[str], names: Mapping[int, str]) -> tuple[list[float], str, str]:
    """Return (box, category, fault) of a line."""
    try:
        number, values = int(float(words[0])), [float(word) for word in words[1:]]
    except ValueError:
        return [], "", f"{' '.join(words)!r:.60} is not a class and numbers"
    if number not in names:
        known = f"{min(names)} to {max(names)}" if names else "none"
        hint = "; do the files count from 1?" if number == len(names) and 0 in names else ""
        return [], "", f"class {number} has no name in data.yaml (named: {known}){hint}"
    if len(values) >= 6 and len(values) % 2 == 0:
        across, down = values[::2], values[1::2]
        width, height = max(across) - min(across), max(down) - min(down)
        values = [min(across) + width / 2, min(down) + height / 2, width, height]
    if len(values) != 4:
        return [], "", f"has {len(values)} numbers after its class; a box has 4"
    if max(values) > 1 + SHARE_SLACK:
        numbers = ", ".join(f"{value:g}" for value in values)
        fault = f"box [{numbers}] has values over 1, like pixels; YOLO has shares of the image size"
        return values, names[number], fault
    return values, names[number], ""
