"""CreateML: one .json file with the boxes of all images.

    [{"image": "1.jpg", "annotations": [
        {"label": "cat", "coordinates": {"x": 46, "y": 51, "width": 68, "height": 42}}]}]

x and y are the center of a box in pixels. The format is that of
developer.apple.com/documentation/createml/building-an-object-detector-data-source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks.exports.export_files import (
    as_dict,
    as_list,
    find_exports,
    json_head,
    label_name,
    load_json,
    naming_file,
)
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.exports.outlines import finite_numbers
from tasks.objects.annotated import Annotated, AnnotatedImage

_NEEDS = "a list of objects with image and annotations"
_IMAGE = ("image", "imagefilename", "imageFilename", "filename")
_LIST = ("annotations", "annotation")


def is_createml(file: Path) -> bool:
    """True if a file begins like an export of CreateML."""
    head = json_head(file)
    keys = head.at(2)
    has_names = bool(keys & set(_IMAGE)) and bool(keys & set(_LIST))
    if head.bracket != "[" or not has_names or "data" in keys:
        return False
    return "coordinates" in head.at(4) or not _has_labels_alone(file)


def _has_labels_alone(file: Path) -> bool:
    """True if annotations are labels of the whole image: a text, or without coordinates."""
    try:
        entries = [as_dict(each, "entry") for each in as_list(load_json(file), "the file")]
    except (DataError, TypeError):  # which reading reports
        return False
    found = [value for each in entries for key in _LIST if (value := each.get(key))]
    items = [item for value in found for item in (value if isinstance(value, list) else [value])]
    return bool(items) and not any(isinstance(i, dict) and "coordinates" in i for i in items)


def find_createml(path: Path) -> dict[str, list[Path]]:
    """Return the exports at a path by split; {} if there are none."""
    return find_exports(path, ".json", is_createml)


def read_createml(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    looked_for = "a .json file with a list of image and annotations"
    return read_exports(path, find_createml(path), _read_file, config, "CreateML", looked_for)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    reading, by_name = Reading(), dict[str, AnnotatedImage]()
    with naming_file(file, "CreateML", _NEEDS):
        for number, entry in enumerate(as_list(load_json(file), "the file"), start=1):
            image = _image(as_dict(entry, f"entry {number}"), file, number)
            if image.file not in by_name:
                reading.add(by_name.setdefault(image.file, image), split)
            else:  # some tools write an entry for each annotation
                by_name[image.file].objects += image.objects
    reading.notes += find_images(file, reading.splits, config)
    return reading


def _image(entry: Any, file: Path, number: int) -> AnnotatedImage:
    place = f"{file.name}, entry {number}"
    name = next((entry[key] for key in _IMAGE if entry.get(key)), None)
    if not isinstance(name, str):
        raise TypeError(f"entry {number} has the image {name!r:.60}, not a name")
    image = AnnotatedImage("", name, place=place)
    objects: Any = next((entry[key] for key in _LIST if entry.get(key)), [])
    for index, each in enumerate(as_list(objects, f"annotations of entry {number}"), start=1):
        annotation = as_dict(each, f"annotation {index} of entry {number}")
        item = Annotated("", form="cxcywh", place=f"{place}, annotation {index}")
        try:
            item.category = label_name(annotation.get("label"))
            box = as_dict(annotation["coordinates"], "coordinates")
            item.box = finite_numbers([box[side] for side in ("x", "y", "width", "height")])
        except KeyError as error:
            item.fault = f"has no {error}"
        except (TypeError, ValueError) as error:
            item.fault = str(error)
        image.objects.append(item)
    return image
