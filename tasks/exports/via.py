"""VGG Image Annotator (VIA 2 and 3): regions as JSON, in a project, or as CSV.

    {"1.jpg1234": {"filename": "1.jpg", "regions": [
        {"shape_attributes": {"name": "rect", "x": 12, "y": 30, "width": 68, "height": 42},
         "region_attributes": {"class": "cat"}}]}}

In a project, these are under "_via_img_metadata". The CSV has columns filename,
region_shape_attributes and region_attributes. Projects of VIA 3 are read in
`tasks.exports.via_projects`. The format is that of robots.ox.ac.uk/~vgg/software/via.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError
from finetune.tables.encodings import Decoder
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
from tasks.exports.outlines import ellipse_outline, finite_numbers, set_outline
from tasks.exports.via_projects import Region, is_via_3, project_regions
from tasks.objects.annotated import Annotated, AnnotatedImage

TOOL = "VGG Image Annotator"
PROJECT = "_via_img_metadata"
_CELLS = ("filename", "region_shape_attributes", "region_attributes")
_ONE_CLASS = "object"
_HEAD = 4096
_NEEDS = "images with filename and regions, each with shape_attributes and region_attributes"
_UNREAD = {"point": "points", "polyline": "polylines"}


def is_via_json(file: Path) -> bool:
    """True if a file begins like regions of VIA."""
    head = json_head(file)
    is_project = any(name.startswith("_via_") for name in head.at(1)) or is_via_3(head.at(1))
    return head.bracket == "{" and (is_project or {"filename", "regions"} <= head.at(2))


def is_via_csv(file: Path) -> bool:
    """True if a file has the columns of VIA."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return all(name.encode() in head for name in _CELLS)


def find_via(path: Path) -> dict[str, list[Path]]:
    """Return the exports at a path by split, JSON before CSV; {} if there are none."""
    return find_exports(path, ".json", is_via_json) or find_exports(path, ".csv", is_via_csv)


def read_via(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    looked_for = "a .json or .csv file with regions"
    return read_exports(path, find_via(path), _read_file, config, TOOL, looked_for)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    with naming_file(file, TOOL, _NEEDS):
        read = _read_csv if file.suffix.lower() == ".csv" else _read_json
        regions: dict[str, list[Region]] = {}
        unread: Counter[str] = Counter()
        for name, some in read(file, config, unread):
            regions.setdefault(name, []).extend(some)
        reading = _build(file, split, regions, config)
        reading.unread += unread
    reading.notes += find_images(file, reading.splits, config)
    return reading


def _read_json(
    file: Path, _: DataConfig, unread: Counter[str]
) -> Iterator[tuple[str, list[Region]]]:
    content = as_dict(load_json(file), "the file")
    if is_via_3(content.keys()):
        yield from project_regions(content, file.name)
        return
    content = as_dict(content.get(PROJECT, content), PROJECT)
    for key, value in content.items():
        entry = as_dict(value, key)
        found = entry.get("regions") or []
        # VIA 1 has an object with numbers as keys.
        regions = list(found.values()) if isinstance(found, Mapping) else as_list(found, key)
        _count_file_attributes(entry.get("file_attributes"), unread)
        name = entry["filename"]
        if not isinstance(name, str):
            raise TypeError(f"filename is {name!r:.60}, not a name")
        yield (
            name,
            [
                Region(
                    as_dict(region["shape_attributes"], "shape_attributes"),
                    as_dict(region.get("region_attributes") or {}, "region_attributes"),
                    f"{file.name}, {name}, region {number}",
                )
                for number, region in enumerate(regions, start=1)
            ],
        )


def _count_file_attributes(value: Any, unread: Counter[str]) -> None:
    """Count the attributes of a whole image, which are not read."""
    attributes = as_dict(value or {}, "file_attributes")
    unread.update(f"values of file attribute {name!r}" for name, each in attributes.items() if each)


def _read_csv(
    file: Path, config: DataConfig, unread: Counter[str]
) -> Iterator[tuple[str, list[Region]]]:
    lines = Decoder(config.encoding).text(file).splitlines(keepends=True)
    text = "".join(dropwhile(lambda line: line.startswith("#") and "," not in line, lines))
    images: dict[str, list[Region]] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            cells = [row.get(name) or "" for name in _CELLS]
            shape, attributes = (as_dict(json.loads(cell or "{}"), "cell") for cell in cells[1:])
            if cells[0] not in images:
                _count_file_attributes(json.loads(row.get("file_attributes") or "{}"), unread)
            regions = images.setdefault(cells[0], [])
            if shape:
                regions.append(Region(shape, attributes, f"{file.name}:{reader.line_num}"))
    except (csv.Error, RecursionError) as error:
        raise ValueError(str(error)) from error
    yield from images.items()


def _build(
    file: Path, split: str, images: Mapping[str, list[Region]], config: DataConfig
) -> Reading:
    reading = Reading()
    regions = [region for some in images.values() for region in some]
    attribute, others = _class_attribute(file, regions, config.field)
    reading.unread.update({f"values of attribute {name!r}": n for name, n in others.items()})
    for name, some in images.items():
        image = AnnotatedImage("", name, place=f"{file.name}, {name}")
        for region in some:
            item = _object(region, attribute, reading)
            if item is not None:
                image.objects.append(item)
        reading.add(image, split)
    if regions and not any(region.attributes for region in regions):
        _name_class(file, reading)
    return reading


def _name_class(file: Path, reading: Reading) -> None:
    """Call the class of regions without attributes, as in the example of Mask R-CNN."""
    for image in reading.images:
        for item in image.objects:
            item.category = _ONE_CLASS
    reading.notes.append(
        f"warning: {file.name}: no region has an attribute, so all are of one class, {_ONE_CLASS}"
    )


def _class_attribute(
    file: Path, regions: list[Region], wanted: str | None
) -> tuple[str, dict[str, int]]:
    """Return the attribute that holds the class, and the counts of the others.

    Raises AmbiguityError if there are several.
    """
    counts = Counter(
        name for region in regions for name, value in region.attributes.items() if value
    )
    chosen = wanted or (next(iter(counts), "") if len(counts) <= 1 else "")
    if counts and chosen not in counts:
        names = ", ".join(f"{name} ({count})" for name, count in counts.items())
        fault = f"no region has {wanted!r}" if wanted else "any may be the class"
        raise AmbiguityError(
            f"{file}: regions have the attributes {names}: {fault}; choose one with"
            f" data.field={next(iter(counts))}"
        )
    return chosen, {name: count for name, count in counts.items() if name != chosen}


def _object(region: Region, attribute: str, reading: Reading) -> Annotated | None:
    kind = str(region.shape.get("name"))
    if kind in _UNREAD:
        reading.unread[_UNREAD[kind]] += 1
        return None
    item = Annotated("", place=region.place)
    try:
        item.category = _category(region.attributes.get(attribute))
        if kind not in _SHAPES:
            raise ValueError(f"shape {kind!r} is unknown")
        _SHAPES[kind](item, region.shape)
    except KeyError as error:
        item.fault = f"shape has no {error}"
    except ValueError as error:
        item.fault = str(error)
    if kind in ("circle", "ellipse"):
        reading.remarks["circles and ellipses read as polygons"] += 1
    return item


def _category(value: Any) -> str:
    """Return the class in the value of an attribute: text, or the options that are ticked."""
    if isinstance(value, Mapping):
        ticked = [str(name) for name, is_set in value.items() if is_set]
        if len(ticked) > 1:
            raise ValueError(f"has the labels {', '.join(ticked)}; one is needed")
        return ticked[0] if ticked else ""
    return label_name(value)


def _add_rect(item: Annotated, shape: Mapping[str, Any]) -> None:
    item.box = finite_numbers([shape[side] for side in ("x", "y", "width", "height")])
    item.form = "xywh"


def _add_polygon(item: Annotated, shape: Mapping[str, Any]) -> None:
    across, down = finite_numbers(shape["all_points_x"]), finite_numbers(shape["all_points_y"])
    if len(across) != len(down):
        raise ValueError(f"polygon has {len(across)} x and {len(down)} y")
    set_outline(item, [value for x, y in zip(across, down, strict=True) for value in (x, y)])


def _add_ellipse(item: Annotated, shape: Mapping[str, Any]) -> None:
    radii = ("r", "r") if "r" in shape else ("rx", "ry")
    x, y, across, down = finite_numbers([shape[name] for name in ("cx", "cy", *radii)])
    (theta,) = finite_numbers([shape.get("theta", 0)])
    set_outline(item, ellipse_outline(x, y, across, down, math.degrees(theta)))


_SHAPES: dict[str, Callable[[Annotated, Mapping[str, Any]], None]] = {
    "rect": _add_rect,
    "polygon": _add_polygon,
    "circle": _add_ellipse,
    "ellipse": _add_ellipse,
}
