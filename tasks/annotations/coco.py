"""COCO annotations -> rows: boxes, polygons and run lengths, by split.

    {"images": [{"id", "file_name", "width", "height"}],
     "annotations": [{"image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}],
     "categories": [{"id", "name"}]}

The format is that of cocodataset.org/#format-data. A row holds a picture and all of its objects:

    {"image": "train/images/1.jpg", "file": "images/1.jpg", "width": 640, "height": 480,
     "objects": [{"id": 1, "category": "cat", "category_id": 17, "bbox": [left, top, width, height],
                  "area": 900.0, "iscrowd": 0, "polygons": [[x, y, ...]], "counts": "", "size": [],
                  "place": "train.json, annotation 1", "fault": ""}]}

`counts` are run lengths in COCO's compressed text of a mask of `size` (H, W), "" where the object
is given by polygons. `fault` says why its outline could not be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.folders import split_name
from finetune.errors import DataError
from finetune.task_parts import Row

_KEYS = {"images", "annotations", "categories"}
_HEAD = 4096  # characters in which a file of another kind can be told


def find_coco(path: Path) -> dict[str, list[Path]]:
    """The COCO files of a path by split: the file itself, or those of a folder in usual places.

    {} if there are none. The split is what the file's name or its folder says, else "train".
    """
    if path.is_file():
        return {"train": [path]} if _is_coco(path) else {}
    if not path.is_dir():
        return {}
    places = [path, path / "annotations", *(p for p in sorted(path.iterdir()) if split_of(p.name))]
    found: dict[str, list[Path]] = {}
    for file in (file for place in places for file in sorted(place.glob("*.json"))):
        if _is_coco(file):
            split = split_of(file.stem) or split_of(file.parent.name) or "train"
            found.setdefault(split, []).append(file)
    return found


def read_coco(path: Path) -> dict[str, list[Row]]:
    """The rows of every split of a COCO file or folder. Raises DataError where there are none."""
    files = find_coco(path)
    if not files:
        raise DataError(
            f"{path}: holds no COCO annotations; a .json file with images, annotations and"
            " categories, or a folder with such files beside or above its pictures"
        )
    for split, several in files.items():
        if len(several) > 1:
            names = ", ".join(file.name for file in several)
            raise DataError(f"{path}: {names} are all of split {split}; name one in data.{split}")
    return {split: list(_rows(several[0])) for split, several in files.items()}


def split_of(name: str) -> str | None:
    """train of instances_train2017, validation of val, None where no word is a split's name."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((found for word in words if (found := split_name(word.rstrip("0123456789")))), None)


def _is_coco(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open(encoding="utf-8-sig") as opened:
            if not opened.read(_HEAD).lstrip().startswith("{"):
                return False
            opened.seek(0)
            held = json.load(opened)
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.keys() >= _KEYS


def _rows(file: Path) -> Iterator[Row]:
    held = json.loads(file.read_text(encoding="utf-8-sig"))
    try:
        categories = {item["id"]: str(item["name"]) for item in held["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {item["id"]: [] for item in held["images"]}
        for number, item in enumerate(held["annotations"], start=1):
            name = f"annotation {item.get('id', f'number {number}')}"
            for key, known in (("image_id", objects), ("category_id", categories)):
                if item[key] not in known:
                    raise DataError(
                        f"{file}: {name} has the {key} {item[key]!r}, which"
                        " the file does not list; list it, or remove the annotation"
                    )
            read = _object(item, categories[item["category_id"]], f"{file.name}, {name}")
            objects[item["image_id"]].append(read)
        root = _picture_folder(file, [item["file_name"] for item in held["images"]])
        for item in held["images"]:
            yield {
                "image": (root / item["file_name"]).as_posix(),
                "file": str(item["file_name"]),
                "width": int(item.get("width") or 0),
                "height": int(item.get("height") or 0),
                "objects": objects[item["id"]],
            }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file}: is no whole COCO file: {type(error).__name__} {error}; images have an id and"
            " a file_name, categories an id and a name, annotations an image_id and a category_id"
        ) from error


def _object(item: Mapping[str, Any], category: str, place: str) -> dict[str, Any]:
    try:
        outline = _outline(item.get("segmentation") or [])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fault = f"its segmentation is neither [[x, y, ...]] nor run lengths: {error}"
        outline = {**_outline([]), "fault": fault}
    return {
        "id": int(item.get("id") or 0),
        "category": category,
        "category_id": int(item["category_id"]),
        "bbox": [float(value) for value in item.get("bbox") or []],
        "area": float(item.get("area") or 0),
        "iscrowd": int(item.get("iscrowd") or 0),
        **outline,
        "place": place,
    }


def _outline(shape: Any) -> dict[str, Any]:
    """What a row says of an object's outline, from COCO's segmentation."""
    found: dict[str, Any] = {"polygons": [], "counts": "", "size": [], "fault": ""}
    if isinstance(shape, Mapping):
        size = [int(side) for side in shape["size"]]
        return {**found, "counts": _compressed(shape), "size": size}
    return {**found, "polygons": [[float(x) for x in points] for points in shape]}


def _compressed(lengths: Mapping[str, Any]) -> str:
    """Run lengths in COCO's text, which is short, from that or from a list of numbers."""
    counts = lengths["counts"]
    if isinstance(counts, str):
        return counts
    from faster_coco_eval.core import mask

    height, width = lengths["size"]
    packed: bytes = mask.frPyObjects(dict(lengths), height, width)["counts"]
    return packed.decode()


def _picture_folder(file: Path, names: Sequence[str]) -> Path:
    """Where the pictures lie that a COCO file names. Raises DataError if they are not to be had."""
    if not names:
        raise DataError(f"{file}: lists no images")
    above, stem = file.parent.parent, file.stem.rpartition("_")[2]
    places = [
        file.parent,
        file.parent / "images",
        *(root / part for root in (above, above / "images") for part in ("", stem)),
    ]
    for place in places:
        if (place / names[0]).is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"{file}: its picture {names[0]!r} is in none of {looked}; move the file there")
