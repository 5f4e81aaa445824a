"""YOLO annotations -> rows, by split: data.yaml, and a .txt file for each picture.

    data.yaml              {path: ., train: images/train, val: images/val, names: [cat, dog]}
    images/train/1.jpg
    labels/train/1.txt     a line an object: class, middle x, middle y, width, height, as shares of
                           the picture; or class, x, y, x, y, ... of an outline

The format is that of docs.ultralytics.com/datasets/detect. A picture without a .txt file, or with
an empty one, shows no object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.data.image_files import is_picture
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import SHARE_SLACK, make_annotation
from tasks.annotations.coco import split_of

_SPLITS = ("train", "val", "valid", "validation", "test")


def find_yolo(path: Path) -> Path | None:
    """The .yaml file that describes the data set at a path, if it is one of YOLO's."""
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    return next((file for file in files if "names" in _content(file, strict=False)), None)


def read_yolo(path: Path) -> dict[str, list[Row]]:
    """The rows of every split that data.yaml names. Raises DataError."""
    file = find_yolo(path)
    if file is None:
        raise DataError(
            f"{path}: holds no data.yaml of YOLO with names and train; write one: "
            "{train: images/train, val: images/val, names: [cat, dog]}"
        )
    content = _content(file, strict=True)
    names = _names(content["names"], file)
    splits: dict[str, list[Row]] = {}
    for key in _SPLITS:
        if content.get(key):
            given = content[key] if isinstance(content[key], list) else [content[key]]
            pictures = [p for each in given for p in _pictures(file, content, str(each))]
            splits[split_of(key) or key] = list(_rows(pictures, names, file.parent))
    if not splits:
        raise DataError(f"{file}: names no split; write train: and val: with folders of pictures")
    return splits


def _content(file: Path, *, strict: bool) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if strict:
            raise DataError(f"{file}: cannot be read: {error}") from error
        return {}
    return found if isinstance(found, dict) else {}


def _names(given: Any, file: Path) -> dict[int, str]:
    pairs = given.items() if isinstance(given, Mapping) else enumerate(given or [])
    try:
        names = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: names is no list and no {{number: name}}: {error}") from error
    if len(set(names.values())) < len(names):
        raise DataError(f"{file}: names has a class twice; give each number a name of its own")
    return names


def _pictures(file: Path, content: Mapping[str, Any], given: str) -> list[Path]:
    """The pictures of a split: of a folder, or of a .txt file with a path a line."""
    root = Path(str(content.get("path") or "."))
    # An exported data.yaml often says ../train/images of what lies beside it.
    places = [file.parent / root / given, file.parent / given]
    places.append(file.parent / given.removeprefix("../"))
    place = next((place for place in places if place.exists()), None)
    if place is None:
        looked = ", ".join(dict.fromkeys(map(str, places)))
        raise DataError(f"{file}: {given!r} is none of {looked}; mend path: or the split's folder")
    if place.is_file():
        lines = place.read_text(encoding="utf-8").split("\n")
        return [place.parent / line.strip() for line in lines if line.strip()]
    found = sorted(path for path in place.rglob("*") if is_picture(path))
    if not found:
        raise DataError(f"{place}: holds no pictures; {file} names it for a split")
    return found


def _rows(pictures: list[Path], names: Mapping[int, str], root: Path) -> Iterator[Row]:
    for picture in pictures:
        file = _label_file(picture)
        place = _short(file, root)
        objects = list(_objects(file, place, names)) if file.is_file() else []
        yield {"image": picture.as_posix(), "file": _short(picture, root), "objects": objects}


def _label_file(picture: Path) -> Path:
    """Where the objects of a picture stand: `labels` in place of the last `images` of its path."""
    parts = list(picture.parts)
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
    """(box, category, fault) of a line."""
    try:
        number, values = int(float(words[0])), [float(word) for word in words[1:]]
    except ValueError:
        return [], "", f"{' '.join(words)!r:.60} is not a class and numbers"
    if number not in names:
        known = f"{min(names)} to {max(names)}" if names else "none"
        counted = "; do the files count from 1?" if number == len(names) and 0 in names else ""
        return [], "", f"class {number} has no name in data.yaml (it names {known}){counted}"
    if len(values) >= 6 and len(values) % 2 == 0:
        across, down = values[::2], values[1::2]
        width, height = max(across) - min(across), max(down) - min(down)
        values = [min(across) + width / 2, min(down) + height / 2, width, height]
    if len(values) != 4:
        return [], "", f"has {len(values)} numbers after its class, where a box has 4"
    if max(values) > 1 + SHARE_SLACK:
        numbers = ", ".join(f"{value:g}" for value in values)
        fault = f"box [{numbers}] has values over 1: pixels, where YOLO has shares of the picture"
        return values, names[number], fault
    return values, names[number], ""
