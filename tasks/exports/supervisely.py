"""Supervisely: a project with the datasets' images and one .json file per image.

    meta.json
    ds0/img/1.jpg  ds0/ann/1.jpg.json     {"size", "objects": [{"classTitle", "geometryType", ...}]}

The format is that of developer.supervisely.com/getting-started/supervisely-annotation-format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.listing.split_names import split_name, split_of
from finetune.listing.walking import list_visible
from tasks.exports.export_files import (
    as_dict,
    as_list,
    json_head,
    label_name,
    load_json,
    naming_file,
    no_export,
)
from tasks.exports.export_images import Reading, Splits, find_images, finish_reading
from tasks.exports.outlines import decode_bitmap, point_numbers, set_holes, set_mask, set_outline
from tasks.objects.annotated import Annotated, AnnotatedImage

_LOOKED_AT = 20
_TAGGED = 200  # files of a dataset that may tell that images have tags
_NEEDS = "an object with size and objects, each with classTitle, geometryType and its points"
_UNREAD = {
    "point": "points",
    "line": "polylines",
    "polyline": "polylines",
    "graph": "keypoints",
    "cuboid": "cuboids",
    "cuboid_2d": "cuboids",
}


def is_supervisely(file: Path) -> bool:
    """True if a file begins like an annotation of Supervisely."""
    head = json_head(file)
    keys = head.at(1)
    return head.bracket == "{" and "objects" in keys and ("size" in keys or "tags" in keys)


def find_supervisely(path: Path) -> dict[Path, list[Path]]:
    """Return the .json files of each dataset of a project; {} if there are none."""
    if not path.is_dir():
        return {}
    children = [child for child in list_visible(path) if child.is_dir()]
    places = [path, *children, *(c for child in children for c in list_visible(child))]
    datasets = {}
    for place in places:
        if not (place / "ann").is_dir():
            continue
        files = [file for file in list_visible(place / "ann") if file.suffix.lower() == ".json"]
        if any(map(is_supervisely, islice(files, _LOOKED_AT))):
            datasets[place] = files
    return datasets


def find_supervisely_tags(path: Path) -> dict[Path, list[Path]]:
    """Return the files of each dataset if the first images have tags other than splits."""
    datasets = find_supervisely(path)
    first = [file for files in datasets.values() for file in files[:_TAGGED]]
    return datasets if any(map(_has_tags, first)) else {}


def _has_tags(file: Path) -> bool:
    try:
        tags = as_list(as_dict(load_json(file), "the file").get("tags") or [], "tags")
        return any(split_name(str(as_dict(tag, "tag").get("name"))) is None for tag in tags)
    except (DataError, TypeError):
        return False


def read_supervisely(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    datasets = find_supervisely(path)
    if not datasets:
        raise no_export(path, "Supervisely", "folders with img/ and ann/, beside meta.json")
    whole, tagged = Reading(), Counter[str]()
    for folder, files in datasets.items():
        reading = Reading()
        for file in files:
            place = file.relative_to(path).as_posix()
            image, tags = _read_file(file, place, reading)
            splits = {split for tag in tags if (split := split_name(tag))}
            image.labels = [tag for tag in tags if split_name(tag) is None] or None
            tagged.update(splits)
            named = split_of(folder.name) if folder != path else None
            tag_split = splits.pop() if len(splits) == 1 else None
            reading.add(image, named or tag_split or "train")
        for images in reading.splits.values():
            reading.notes += find_images(folder / "ann", {"img": images}, config)
        whole.join(reading)
    if len(whole.splits) > 1 and tagged:
        whole.notes.append("splits: by the tags of the images, where the dataset names none")
    whole.classes = _classes(path / "meta.json")
    return finish_reading(whole, config)


def _read_file(file: Path, place: str, reading: Reading) -> tuple[AnnotatedImage, list[str]]:
    with naming_file(file, "Supervisely", _NEEDS):
        content = as_dict(load_json(file), "the file")
        size = as_dict(content.get("size") or {}, "size")
        shape = (int(size.get("height") or 0), int(size.get("width") or 0))
        is_known = min(shape) > 0
        image = AnnotatedImage("", file.stem, size=shape if is_known else None, place=place)
        tags = [str(as_dict(tag, "tag").get("name")) for tag in content.get("tags") or []]
        for number, entry in enumerate(as_list(content["objects"], "objects"), start=1):
            item = _object(as_dict(entry, f"object {number}"), image, reading)
            if item is not None:
                item.place = f"{place}, object {number}"
                image.objects.append(item)
    reading.unread = +reading.unread
    return image, tags


def _classes(meta: Path) -> list[str]:
    """Return the classes of a project; [] without meta.json."""
    if not meta.is_file():
        return []
    with naming_file(meta, "Supervisely", "an object with classes"):
        classes = as_list(as_dict(load_json(meta), "the file").get("classes") or [], "classes")
        return [str(as_dict(each, "class")["title"]) for each in classes]


def _object(entry: Mapping[str, Any], image: AnnotatedImage, reading: Reading) -> Annotated | None:
    kind = str(entry.get("geometryType"))
    if kind in _UNREAD:
        reading.unread[_UNREAD[kind]] += 1
        return None
    item = Annotated("")
    reading.unread["tags of objects"] += len(entry.get("tags") or [])
    try:
        item.category = label_name(entry.get("classTitle"))
        if kind not in _SHAPES:
            raise ValueError(f"geometryType {kind!r} is unknown")
        _SHAPES[kind](item, entry, image)
    except KeyError as error:
        item.fault = f"has no {error}"
    except (TypeError, ValueError) as error:
        item.fault = str(error)
    return item


def _add_rectangle(item: Annotated, entry: Mapping[str, Any], _: AnnotatedImage) -> None:
    points = point_numbers(as_dict(entry["points"], "points")["exterior"])
    if len(points) != 4:
        raise ValueError(f"rectangle has {len(points) // 2} points, not 2")
    left, right = sorted(points[::2])
    top, bottom = sorted(points[1::2])
    item.box = [left, top, right, bottom]


def _add_polygon(item: Annotated, entry: Mapping[str, Any], image: AnnotatedImage) -> None:
    points = as_dict(entry["points"], "points")
    outer = point_numbers(points["exterior"])
    holes = [point_numbers(hole) for hole in points.get("interior") or []]
    if not holes:
        set_outline(item, outer)
    elif image.size is None:
        raise ValueError("polygons with holes need the size of the image")
    else:
        set_holes(item, outer, holes, image.size)


def _add_bitmap(item: Annotated, entry: Mapping[str, Any], image: AnnotatedImage) -> None:
    if image.size is None:
        raise ValueError("bitmaps need the size of the image")
    bitmap = as_dict(entry["bitmap"], "bitmap")
    left, top = point_numbers([bitmap["origin"]])
    mask = decode_bitmap(bitmap["data"], is_packed=True)
    set_mask(item, mask, (round(left), round(top)), image.size)


_SHAPES: dict[str, Callable[[Annotated, Mapping[str, Any], AnnotatedImage], None]] = {
    "rectangle": _add_rectangle,
    "polygon": _add_polygon,
    "bitmap": _add_bitmap,
}
