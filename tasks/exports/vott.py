"""VoTT: the JSON that it exports, and the -asset.json files of a project.

    {"name": "...", "tags": [{"name": "cat"}], "assets": {"x": {
        "asset": {"name": "1.jpg", "path": "file:/home/me/1.jpg", "size": {...}, "state": 2},
        "regions": [{"type": "RECTANGLE", "tags": ["cat"], "points": [{"x": 12, "y": 30}, ...],
                     "boundingBox": {"left": 12, "top": 30, "width": 68, "height": 42}}]}}}

The format is that of github.com/microsoft/VoTT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from tasks.exports.export_files import (
    as_dict,
    as_list,
    find_exports,
    json_head,
    label_name,
    load_json,
    naming_file,
    no_export,
)
from tasks.exports.export_images import Reading, Splits, find_images, finish_reading
from tasks.exports.outlines import finite_numbers, set_outline
from tasks.objects.annotated import Annotated, AnnotatedImage

_TOOL = "VoTT"
_NEEDS = "an object with assets, each with asset and regions"
_TAGGED = 2  # state of an asset; 0 was never opened, 1 was opened and left without regions
_SIDES = ("left", "top", "width", "height")
_OUTLINES = ("POLYGON", "POLYLINE")


def _is_vott(file: Path) -> bool:
    """True if a file begins like an export of VoTT, or an asset of a project."""
    head = json_head(file)
    is_export = "assets" in head.at(1) and bool({"tags", "securityToken"} & head.at(1))
    return head.bracket == "{" and (is_export or {"asset", "regions"} <= head.at(1))


def find_vott(path: Path) -> dict[str, list[Path]]:
    """Return the files of VoTT at a path by split; {} if there are none."""
    return find_exports(path, ".json", _is_vott)


def read_vott(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    files = find_vott(path)
    if not files:
        raise no_export(path, _TOOL, "a .json file with assets and their regions")
    whole = Reading()
    for split, some in files.items():
        reading = Reading()
        for file in some:
            with naming_file(file, _TOOL, _NEEDS):
                content = as_dict(load_json(file), "the file")
                tags = as_list(content.get("tags") or [], "tags")
                reading.classes += [label_name(as_dict(tag, "tag").get("name")) for tag in tags]
                for entry in _entries(content):
                    image = _image(entry, file, reading)
                    if image is not None:
                        reading.add(image, split)
        reading.notes += find_images(some[0], reading.splits, config)
        whole.join(reading)
    return finish_reading(whole, config)


def _entries(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the assets of an export, or the only one of a file of a project."""
    if "assets" not in content:
        yield content
        return
    for key, entry in as_dict(content["assets"], "assets").items():
        if "asset" not in as_dict(entry, key):
            raise KeyError("asset: this is a project, whose regions are in its -asset.json files")
        yield entry


def _image(entry: Mapping[str, Any], file: Path, reading: Reading) -> AnnotatedImage | None:
    """Return the image of an asset; None if nobody has annotated it."""
    asset = as_dict(entry["asset"], "asset")
    name = str(asset.get("name") or asset["path"])
    image = AnnotatedImage("", name, size=_size(asset), place=f"{file.name}, {name}")
    regions = as_list(entry.get("regions") or [], "regions")
    if not regions and asset.get("state", _TAGGED) != _TAGGED:
        reading.unread["images that were not annotated"] += 1
        return None
    for number, each in enumerate(regions, start=1):
        item = Annotated("", place=f"{image.place}, region {number}")
        try:
            _read_region(item, as_dict(each, f"region {number}"))
        except KeyError as error:
            item.fault = f"region has no {error}"
        except ValueError as error:
            item.fault = str(error)
        image.objects.append(item)
    return image


def _size(asset: Mapping[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = (int(asset["size"][side]) for side in ("height", "width"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_region(item: Annotated, region: Mapping[str, Any]) -> None:
    tags = [label_name(tag) for tag in as_list(region.get("tags") or [], "tags")]
    if len(tags) > 1:
        raise ValueError(f"has the tags {', '.join(tags)}; one is needed")
    item.category = tags[0] if tags else ""
    if str(region.get("type")).upper() in _OUTLINES:
        points = [as_dict(point, "point") for point in as_list(region["points"], "points")]
        set_outline(item, finite_numbers([point[side] for point in points for side in ("x", "y")]))
    else:
        box = as_dict(region["boundingBox"], "boundingBox")
        item.box, item.form = finite_numbers([box[side] for side in _SIDES]), "xywh"
