"""COCO annotations, read as rows by split: boxes, polygons and run-length masks.

    {"images": [{"id", "file_name", "width", "height"}],
     "annotations": [{"image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}],
     "categories": [{"id", "name"}]}

The format is that of cocodataset.org/#format-data. A row is an image with all of its objects:

    {"image": "train/images/1.jpg", "file": "images/1.jpg", "width": 640, "height": 480,
     "objects": [{"id": 1, "category": "cat", "category_id": 17, "bbox": [left, top, width, height],
                  "area": 900.0, "iscrowd": 0, "polygons": [[x, y, ...]], "counts": "", "size": [],
                  "place": "train.json, annotation 1", "fault": ""}]}

`counts` is the compressed RLE string of a mask of `size` (H, W); "" if the object has polygons.
`fault` says why the segmentation could not be read.
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
_HEAD = 4096  # characters to read before parsing: enough to reject a file that is not an object


def find_coco(path: Path) -> dict[str, list[Path]]:
    """Return the COCO files of a path by split: the file itself, or those in a folder.

    {} if there are none. A folder is searched directly, in annotations/ and in folders named after
    splits. The split of a file is taken from its name or its folder's, else it is "train".
    """
    if path.is_file():
        return {"train": [path]} if _is_coco(path) else {}
    if not path.is_dir():
        return {}
    places = [path, path / "annotations", *(p for p in sorted(path.iterdir()) if split_of(p.name))]
    files: dict[str, list[Path]] = {}
    for file in (file for place in places for file in sorted(place.glob("*.json"))):
        if _is_coco(file):
            split = split_of(file.stem) or split_of(file.parent.name) or "train"
            files.setdefault(split, []).append(file)
    return files


def read_coco(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every split of a COCO file or folder.

    Raises DataError if there is none, or if a file is malformed or its images are missing.
    """
    files = find_coco(path)
    if not files:
        raise DataError(
            f"{path}: no COCO annotations found; expected a .json file with images, annotations and"
            " categories, or a folder with such files beside or above its images"
        )
    for split, candidates in files.items():
        if len(candidates) > 1:
            names = ", ".join(file.name for file in candidates)
            raise DataError(
                f"{path}: split {split} has several files: {names}; set data.{split} to one of them"
            )
    return {split: list(_rows(candidates[0])) for split, candidates in files.items()}


def split_of(name: str) -> str | None:
    """Return the split in a name, or None: train for instances_train2017, validation for val."""
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
            content = json.load(opened)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= _KEYS


def _rows(file: Path) -> Iterator[Row]:
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    try:
        categories = {item["id"]: str(item["name"]) for item in content["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {item["id"]: [] for item in content["images"]}
        for number, item in enumerate(content["annotations"], start=1):
            name = f"annotation {item.get('id', f'number {number}')}"
            for key, known in (("image_id", objects), ("category_id", categories)):
                if item[key] not in known:
                    raise DataError(
                        f"{file}: {name} has unknown {key} {item[key]!r}; "
                        "add it to the file, or remove the annotation"
                    )
            parsed = _object(item, categories[item["category_id"]], f"{file.name}, {name}")
            objects[item["image_id"]].append(parsed)
        root = _image_folder(file, [item["file_name"] for item in content["images"]])
        for item in content["images"]:
            yield {
                "image": (root / item["file_name"]).as_posix(),
                "file": str(item["file_name"]),
                "width": int(item.get("width") or 0),
                "height": int(item.get("height") or 0),
                "objects": objects[item["id"]],
            }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file}: not a valid COCO file: {type(error).__name__}: {error}; images need an id and"
            " a file_name, categories an id and a name, annotations an image_id and a category_id"
        ) from error


def _object(item: Mapping[str, Any], category: str, place: str) -> dict[str, Any]:
    try:
        outline = _outline(item.get("segmentation") or [])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fault = f"segmentation is neither polygons [[x, y, ...]] nor RLE: {error}"
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


def _outline(segmentation: Any) -> dict[str, Any]:
    """Return the keys of a row's object that describe its outline."""
    empty: dict[str, Any] = {"polygons": [], "counts": "", "size": [], "fault": ""}
    if isinstance(segmentation, Mapping):
        size = [int(side) for side in segmentation["size"]]
        return {**empty, "counts": _compress(segmentation), "size": size}
    return {**empty, "polygons": [[float(x) for x in points] for points in segmentation]}


def _compress(rle: Mapping[str, Any]) -> str:
    """Return the compressed RLE string; `rle` may be uncompressed, with a list of numbers."""
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts
    from faster_coco_eval.core import mask

    height, width = rle["size"]
    packed: bytes = mask.frPyObjects(dict(rle), height, width)["counts"]
    return packed.decode()


def _image_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder of the images that a COCO file lists. Raises DataError if not found."""
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
    searched = ", ".join(str(place) for place in places)
    raise DataError(
        f"{file}: image {names[0]!r} not found in {searched}; move the images to one of them"
    )
