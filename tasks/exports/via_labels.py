"""Labels of whole images in VGG Image Annotator: the file attributes of VIA 2.

    {"1.jpg1234": {"filename": "1.jpg", "regions": [], "file_attributes": {"animal": "cat"}}}

The value is a text, or the options that are ticked; `data.field` names the attribute if there are
several.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError
from finetune.tables.encodings import Decoder
from tasks.exports.export_files import as_dict, as_list, load_json, naming_file
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.exports.via import PROJECT, TOOL, find_via
from tasks.objects.annotated import Annotated, AnnotatedImage

_NEEDS = "images with filename and file_attributes"
_UNTOUCHED = {"caption": "", "public_domain": "no", "image_url": ""}
"""The attributes that VIA gives to each file, with their values until someone changes them."""


def find_via_labels(path: Path) -> dict[str, list[Path]]:
    """Return the exports by split if their images have file attributes; {} otherwise."""
    files = find_via(path)
    try:
        images = [each for some in files.values() for file in some for each in _images(file)]
    except (DataError, KeyError, TypeError, ValueError, csv.Error):  # which reading reports
        return {}
    return files if any(values for _, values, _ in images) else {}


def read_via_labels(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split with their labels, and notes. Raises DataError."""
    looked_for = "a .json or .csv file with file_attributes"
    return read_exports(path, find_via(path), _read_file, config, TOOL, looked_for)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    reading = Reading()
    with naming_file(file, TOOL, _NEEDS):
        images = list(_images(file))
    counts = Counter(name for _, values, _ in images for name in values)
    chosen = config.field or (next(iter(counts), "") if len(counts) == 1 else "")
    if chosen not in counts:
        names = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise AmbiguityError(
            f"{file}: its images have the attributes {names}: any may be the label; choose one with"
            f" data.field={next(iter(counts), 'NAME')}"
        )
    others = {name: count for name, count in counts.items() if name != chosen}
    reading.unread.update({f"values of file attribute {name!r}": n for name, n in others.items()})
    for name, values, regions in images:
        image = AnnotatedImage(
            "", name, place=f"{file.name}, {name}", labels=_labels(values, chosen)
        )
        image.objects = [Annotated("object") for _ in range(regions)]
        reading.add(image, split)
    reading.notes += find_images(file, reading.splits, config)
    return reading


def _labels(values: Mapping[str, Any], name: str) -> list[str] | None:
    value = values.get(name)
    if isinstance(value, Mapping):
        return [str(option) for option, is_set in value.items() if is_set]
    return None if value is None else [str(value)]


def _images(file: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield the name, the file attributes and the number of regions of each image."""
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(Decoder().text(file), newline=""))
        rows = {row["filename"]: row for row in reader}
        for name, row in rows.items():
            yield name, _set(json.loads(row.get("file_attributes") or "{}")), 0
        return
    content = as_dict(load_json(file), "the file")
    for key, value in as_dict(content.get(PROJECT, content), PROJECT).items():
        entry = as_dict(value, key)
        regions = entry.get("regions") or []
        count = len(regions if isinstance(regions, Mapping) else as_list(regions, key))
        yield str(entry["filename"]), _set(entry.get("file_attributes")), count


def _set(value: Any) -> dict[str, Any]:
    """Return the attributes that someone has set."""
    attributes = as_dict(value or {}, "file_attributes")
    return {k: v for k, v in attributes.items() if v and _UNTOUCHED.get(k) != v}
