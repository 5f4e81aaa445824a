"""Regions of images in Label Studio: rectangles, ellipses, polygons and brushes.

Coordinates are in percent of the image: {"x": 12.5, "y": 40, "width": 70, "height": 30, "rotation":
0, "rectanglelabels": ["cat"]}; a rectangle is turned around its left top corner. The format is that
of labelstud.io/tags/rectanglelabels and its like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError
from tasks.exports.export_files import label_name, naming_file
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.exports.outlines import (
    box_outline,
    decode_brush,
    ellipse_outline,
    finite_numbers,
    point_numbers,
    rotate_points,
    set_mask,
    set_outline,
)
from tasks.image.image_reading import picture_size
from tasks.label_studio.studio_tasks import (
    LOOKED_FOR,
    TOOL,
    Result,
    StudioFile,
    StudioTask,
    find_studio,
    load_studio,
    looks_like_media,
)
from tasks.objects.annotated import Annotated, AnnotatedImage

Size = tuple[int, int]
_CLOSE = 0.01  # relative difference of two aspect ratios that are the same but for rounding
_LABELS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "labels")


def find_studio_images(path: Path) -> dict[str, list[Path]]:
    """Return the exports by split unless they are of texts; {} if there are none."""
    files = find_studio(path)
    try:
        are_texts = all(load_studio(file).has_texts for some in files.values() for file in some)
    except DataError:  # which reading them reports
        return files
    return {} if are_texts else files


def read_studio_images(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    return read_exports(path, find_studio(path), _read_file, config, TOOL, LOOKED_FOR)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    with naming_file(file, TOOL, "regions of images"):
        return _read(file, split, load_studio(file), config)


def _read(file: Path, split: str, content: StudioFile, config: DataConfig) -> Reading:
    reading = Reading(unread=content.unread.copy())
    annotated = [task for task in content.tasks if task.results is not None]
    if not annotated:
        raise DataError(f"{file}: none of its {len(content.tasks)} tasks is annotated")
    if not content.has_shapes and any(content.results()):
        raise DataError(f"{file}: has no regions of images; found {content.kinds()}")
    key = image_key(file, annotated[0], config.field)
    for task in annotated:
        name = task.data.get(key)
        if not isinstance(name, str):
            raise TypeError(f"{task.place} has the image {name!r:.60}, not a path")
        reading.add(AnnotatedImage("", name, place=task.place), split)
    reading.notes += find_images(file, reading.splits, config)
    for task, image in zip(annotated, reading.images, strict=True):
        _add_objects(task, image, reading)
    return reading


def image_key(file: Path, task: StudioTask, wanted: str | None) -> str:
    """Return the key of the image in the data of a task. Raises AmbiguityError for several."""
    keys = [key for key, value in task.data.items() if looks_like_media(value)]
    keys = keys or [key for key, value in task.data.items() if isinstance(value, str)]
    if wanted in task.data:
        return str(wanted)
    if len(keys) == 1:
        return keys[0]
    names = ", ".join(keys) or "none"
    raise AmbiguityError(
        f"{file}: fields of the tasks with a path of an image: {names}; choose one with"
        f" data.field={keys[0] if keys else 'NAME'}"
    )


def _add_objects(task: StudioTask, image: AnnotatedImage, reading: Reading) -> None:
    results = list(task.results or ())
    labels: dict[str, list[str]] = {}
    for result in results:
        if result.region:
            labels.setdefault(result.region, []).extend(_labels(result))
    seen: set[str] = set()
    for number, result in enumerate(results, start=1):
        if not result.is_shape or not _kind(result):
            if not (_labels(result) and result.region):
                reading.unread[f"results of type {result.kind}"] += 1
            continue
        if result.region and result.region in seen:
            continue  # a rectangle and its labels, of tags <Rectangle> and <Labels>
        seen.add(result.region)
        names = list(dict.fromkeys(labels.get(result.region) or _labels(result)))
        item = Annotated(names[0] if names else "", place=f"{task.place}, region {number}")
        if len(names) > 1:
            item.fault = f"has the labels {', '.join(names)}; one is needed"
        try:
            _shape(item, result, image, reading)
        except KeyError as error:
            item.fault = f"region has no {error}"
        except ValueError as error:
            item.fault = str(error)
        image.objects.append(item)


def _labels(result: Result) -> list[str]:
    found = (result.value.get(name) for name in _LABELS)
    return [label_name(label) for some in found if isinstance(some, list) for label in some]


def _kind(result: Result) -> str:
    """Return the shape of a region by the keys of its value; "" if it is not read."""
    keys = result.value.keys()
    return next((name for name, (needed, _) in _SHAPES.items() if needed <= keys), "")


def _shape(item: Annotated, result: Result, image: AnnotatedImage, reading: Reading) -> None:
    if result.turn % 360:
        raise ValueError(f"its image was turned by {result.turn:g} degrees in {TOOL}")
    kind = _kind(result)
    size = _size_of(image, result)
    _SHAPES[kind][1](item, result.value, size)
    if kind == "ellipse":
        reading.remarks["ellipses read as polygons"] += 1
    elif kind == "rectangle" and item.polygons:
        reading.remarks["turned boxes read as polygons"] += 1


def _size_of(image: AnnotatedImage, result: Result) -> Size:
    """Return the size (H, W) in which percents are converted.

    That of the file, unless the tool saw an image of another shape: then that, with which the
    image is marked. A brush is in the pixels of the image that the tool saw.
    """
    try:
        size: Size | None = picture_size(image.image)
    except DataError:  # a fault of the row, which validation reports
        size = None
    seen = result.size
    if size is None or (seen is not None and ("rle" in result.value or not _alike(size, seen))):
        size = seen
        image.size = seen
    if size is None:
        raise ValueError("the size of its image is not known")
    return size


def _alike(one: Size, other: Size) -> bool:
    ratio = (one[0] * other[1]) / (one[1] * other[0])
    return abs(ratio - 1) <= _CLOSE


def _add_rectangle(item: Annotated, value: Mapping[str, Any], size: Size) -> None:
    sides = finite_numbers([value[name] for name in ("x", "y", "width", "height")])
    left, top, width, height = _to_pixels(sides, size)
    (degrees,) = finite_numbers([value.get("rotation") or 0])
    if degrees % 360:
        box = box_outline(left, top, left + width, top + height)
        set_outline(item, rotate_points(box, degrees, (left, top)))
    else:
        item.box, item.form = [left, top, width, height], "xywh"


def _add_ellipse(item: Annotated, value: Mapping[str, Any], size: Size) -> None:
    sides = finite_numbers([value[name] for name in ("x", "y", "radiusX", "radiusY")])
    x, y, across, down = _to_pixels(sides, size)
    (degrees,) = finite_numbers([value.get("rotation") or 0])
    set_outline(item, ellipse_outline(x, y, across, down, degrees))


def _add_polygon(item: Annotated, value: Mapping[str, Any], size: Size) -> None:
    set_outline(item, _to_pixels(point_numbers(value["points"]), size))


def _add_brush(item: Annotated, value: Mapping[str, Any], size: Size) -> None:
    set_mask(item, decode_brush(value["rle"], size), (0, 0), size)


def _to_pixels(values: list[float], size: Size) -> list[float]:
    """Convert alternating percents of the width and the height."""
    height, width = size
    return [value * (height if index % 2 else width) / 100 for index, value in enumerate(values)]


_SHAPES: dict[str, tuple[set[str], Callable[[Annotated, Mapping[str, Any], Size], None]]] = {
    "brush": ({"rle"}, _add_brush),
    "polygon": ({"points"}, _add_polygon),
    "ellipse": ({"x", "y", "radiusX", "radiusY"}, _add_ellipse),
    "rectangle": ({"x", "y", "width", "height"}, _add_rectangle),
}
