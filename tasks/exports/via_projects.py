"""Projects of VGG Image Annotator 3, whose shapes are lists of numbers.

    {"project": {...}, "file": {"1": {"fname": "1.jpg"}}, "view": {"1": {"fid_list": ["1"]}},
     "attribute": {"1": {"aname": "class", "options": {"0": "cat", "1": "dog"}}},
     "metadata": {"1_x": {"vid": "1", "z": [], "xy": [2, 12, 30, 68, 42], "av": {"1": "0"}}}}

The first number of a shape is its kind: 2 is a rectangle, 7 a polygon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.exports.export_files import as_dict, as_list

_KEYS = {"project", "file", "view", "metadata", "attribute"}
# Names of VIA 2, and those of the numbers that follow.
_KINDS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("point", ()),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("polyline", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("rect", ("x", "y", "width", "height")),
    9: ("circle", ("cx", "cy", "r")),
}


class Region(NamedTuple):
    """A region of an image, and where it is in its file."""

    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]
    place: str


def is_via_3(keys: Collection[str]) -> bool:
    """True for the keys of a project of VIA 3."""
    return set(keys) >= _KEYS


def project_regions(content: Mapping[str, Any], place: str) -> Iterator[tuple[str, list[Region]]]:
    """Yield the name of each image and its regions, as VIA 2 describes them.

    Raises KeyError, TypeError or ValueError for a malformed project.
    """
    views = {key: _image_name(content, view) for key, view in content["view"].items()}
    regions: dict[str, list[Region]] = {name: [] for name in views.values()}
    for key, item in as_dict(content["metadata"], "metadata").items():
        entry, name = as_dict(item, key), views[str(item["vid"])]
        if numbers := as_list(entry.get("xy") or [], "xy"):  # others are about the whole image
            attributes = dict(_attributes(content, as_dict(entry.get("av") or {}, "av")))
            where = f"{place}, {name}, region {key}"
            regions[name].append(Region(_shape(numbers), attributes, where))
    yield from regions.items()


def _image_name(content: Mapping[str, Any], view: Mapping[str, Any]) -> str:
    files = [content["file"][str(key)] for key in as_list(view["fid_list"], "fid_list")]
    return str(files[0].get("fname") or files[0]["src"])


def _attributes(content: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each attribute; an option is given by its number."""
    for key, value in values.items():
        attribute = as_dict(content["attribute"][key], "attribute")
        options = as_dict(attribute.get("options") or {}, "options")
        numbers = [number for number in str(value).split(",") if number]
        ticked = {options[number]: True for number in numbers if number in options}
        yield str(attribute["aname"]), (ticked if options and ticked else value)


def _shape(numbers: Sequence[Any]) -> dict[str, Any]:
    name, sides = _KINDS.get(int(numbers[0]), (f"number {numbers[0]}", ()))
    values = list(numbers[1:])
    if name == "polygon":
        return {"name": name, "all_points_x": values[::2], "all_points_y": values[1::2]}
    return {"name": name, **dict(zip(sides, values, strict=False))}
