"""FiftyOne: labels.json beside data/, with the labels or the boxes of each image.

    {"classes": ["cat", "dog"], "labels": {"1": 0, "2": 1}}                     classification
    {"classes": ["cat", "dog"], "labels": {"1": [0, 1], "2": []}}               several labels
    {"classes": ["cat"], "labels": {"1": [{"label": 0, "bounding_box": [0.1, 0.2, 0.5, 0.5]}]}}

Boxes are left, top, width, height in shares of the image. The formats are
FiftyOneImageClassificationDataset and FiftyOneImageDetectionDataset of docs.voxel51.com.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks.exports.export_files import (
    as_dict,
    find_exports,
    json_head,
    label_name,
    load_json,
    naming_file,
)
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.exports.outlines import finite_numbers
from tasks.objects.annotated import Annotated, AnnotatedImage

_TOOL = "FiftyOne"
_NEEDS = "an object with classes and labels, {image: labels}"


def _is_fiftyone(file: Path) -> bool:
    """True if a file begins like labels of FiftyOne."""
    head = json_head(file)
    return head.bracket == "{" and head.at(1) == {"classes", "labels"} and bool(head.at(2))


def _find(path: Path) -> dict[str, list[Path]]:
    return find_exports(path, ".json", _is_fiftyone)


def find_fiftyone_boxes(path: Path) -> dict[str, list[Path]]:
    """Return the files with boxes at a path by split; {} if there are none."""
    files = _find(path)
    return files if any(_has_boxes(file) for some in files.values() for file in some) else {}


def find_fiftyone_labels(path: Path) -> dict[str, list[Path]]:
    """Return the files with labels of images at a path by split; {} if there are none."""
    return {} if find_fiftyone_boxes(path) else _find(path)


def _has_boxes(file: Path) -> bool:
    return "bounding_box" in json_head(file).at(4)


def read_fiftyone(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, with objects or labels, and notes. Raises DataError."""
    looked_for = "labels.json with classes and labels, beside data/"
    return read_exports(path, _find(path), _read_file, config, _TOOL, looked_for)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    reading = Reading()
    with naming_file(file, _TOOL, _NEEDS):
        content = as_dict(load_json(file), "the file")
        names = [label_name(name) for name in content["classes"] or ()]
        for name, labels in as_dict(content["labels"], "labels").items():
            reading.add(_image(f"{file.name}, {name}", name, labels, names), split)
    if any(image.objects for image in reading.images):
        reading.classes = names
    reading.notes += find_images(file, reading.splits, config)
    return reading


def _image(place: str, name: str, value: Any, names: Sequence[str]) -> AnnotatedImage:
    image = AnnotatedImage("", name, place=place)
    if value is None:
        return image
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, Mapping) and "bounding_box" in item for item in items):
        image.objects = list(_objects(place, items, names))
    else:
        image.labels = [_category(_label(item), names) for item in items]
    return image


def _label(item: Any) -> Any:
    return item["label"] if isinstance(item, Mapping) else item


def _objects(place: str, items: Sequence[Any], names: Sequence[str]) -> Iterator[Annotated]:
    for number, item in enumerate(items, start=1):
        found = Annotated("", form="xywh-shares", place=f"{place}, object {number}")
        try:
            found.category = _category(as_dict(item, "object")["label"], names)
            found.box = finite_numbers(item["bounding_box"])
        except (TypeError, ValueError, DataError) as error:
            found.fault = str(error)
        except KeyError as error:
            found.fault = f"has no {error}"
        yield found


def _category(label: Any, names: Sequence[str]) -> str:
    """Return the name of a class, which may be given by its number. Raises DataError."""
    if isinstance(label, bool) or not isinstance(label, int) or not names:
        return label_name(label)
    if not 0 <= label < len(names):
        raise DataError(f"label {label} has no name in classes (named: 0 to {len(names) - 1})")
    return names[label]
