"""Annotations made on images of another size than the files have.

Two causes are understood. A tool that ignores the EXIF orientation annotates the image as it is
stored: coordinates are turned with it. A dataset whose images were resized later: coordinates are
scaled with data.rescale=true, and taken as pixels of the files with data.rescale=false.

Shapes: H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from finetune.errors import DataError, format_count
from tasks.image.image_reading import picture_size
from tasks.objects.annotated import AnnotatedImage
from tasks.objects.boxes import is_numbers, to_corners
from tasks.objects.polygons import bounds
from tasks.pixels.orientation import orientation_of

Point = Callable[[float, float], tuple[float, float]]
Size = tuple[int, int]


def fit_sizes(items: Sequence[AnnotatedImage], rescale: bool | None) -> list[str]:
    """Convert the objects of images to the upright pixels of their files; return notes.

    An image whose stated size is not understood gets a fault on its first object.
    """
    differing = [(item, size) for item in items if (size := _other_size(item))]
    stored = {id(item) for item, size in differing if _is_stored(item, size)}
    notes = _turn(items, stored) if stored else []
    rest = [(item, size) for item, size in differing if id(item) not in stored]
    scaled = [pair for pair in rest if pair[0].objects]
    if rescale is None:
        for item, size in scaled:
            item.objects[0] = replace(item.objects[0], fault=_describe(item, size))
    elif rescale:
        for item, size in scaled:
            _scale(item, size)
    if scaled and rescale is not None:
        how = "scaled to their files" if rescale else "read in the pixels of their files"
        stated, size = scaled[0][0].size, scaled[0][1]
        images = format_count(len(scaled), "image")
        notes.append(
            f"annotations of {images} of another size are {how} (data.rescale); the"
            f" first is stated as {_show(stated)}, its file has {_show(size)}"
        )
    return notes


def _other_size(item: AnnotatedImage) -> Size | None:
    """Return the size (H, W) of an image's file if it is not the stated one, else None."""
    if item.size is None or not all(item.size):
        return None
    try:
        size = picture_size(item.cell)
    except DataError:  # a fault of the row, which validation reports
        return None
    return None if size == tuple(item.size) else size


def _is_stored(item: AnnotatedImage, size: Size) -> bool:
    """True if the stated size is that of the image before its EXIF orientation is applied."""
    return item.size == size[::-1] and orientation_of(item.content or item.image) >= 5


def _turn(items: Iterable[AnnotatedImage], stored: set[int]) -> list[str]:
    """Turn the objects of all images with an orientation, if all that can tell were annotated so.

    Mirrored images and those turned by 180 degrees have the same size either way.
    """
    count = 0
    for item in items:
        if item.size is None:
            continue
        number = orientation_of(item.content or item.image)
        is_square_or_flipped = id(item) in stored or number in (2, 3, 4)
        if number != 1 and (is_square_or_flipped or item.size[0] == item.size[1]):
            _turn_objects(item, _TURNS[number](*item.size))
            count += 1
    return [
        f"images with an EXIF orientation that their annotations ignore: {count}; coordinates are"
        " turned with the images"
    ]


# Where a point of the stored image of H, W pixels is in the upright one.
_TURNS: dict[int, Callable[[int, int], Point]] = {
    2: lambda height, width: lambda x, y: (width - x, y),
    3: lambda height, width: lambda x, y: (width - x, height - y),
    4: lambda height, width: lambda x, y: (x, height - y),
    5: lambda height, width: lambda x, y: (y, x),
    6: lambda height, width: lambda x, y: (height - y, x),
    7: lambda height, width: lambda x, y: (height - y, width - x),
    8: lambda height, width: lambda x, y: (y, width - x),
}


def _scale(item: AnnotatedImage, size: Size) -> None:
    """Scale the objects of an image; every convention of a box in pixels scales alike."""
    assert item.size is not None
    down, across = size[0] / item.size[0], size[1] / item.size[1]
    factors = (across, down, across, down)
    for index, each in enumerate(item.objects):
        polygons = [
            _move_points(line, lambda x, y: (x * across, y * down)) for line in each.polygons
        ]
        box = each.box
        if is_numbers(box) and not each.form.endswith("-shares"):
            box = [value * factor for value, factor in zip(box, factors, strict=True)]
        area = each.area * across * down
        item.objects[index] = replace(each, box=box, polygons=polygons, area=area)


def _turn_objects(item: AnnotatedImage, move: Point) -> None:
    """Turn the objects of an image whose coordinates are in pixels."""
    assert item.size is not None
    for index, each in enumerate(item.objects):
        polygons = [_move_points(line, move) for line in each.polygons]
        box, form, fault = each.box, each.form, each.fault
        if not form:
            fault = fault or "its image has an EXIF orientation that the annotations ignore"
        elif is_numbers(box) and not form.endswith("-shares"):
            left, top, right, bottom = to_corners(box, form, item.size)  # type: ignore[arg-type]
            if right >= left and bottom >= top:  # a reversed box is a fault in any case
                left, top, right, bottom = bounds([_move_points([left, top, right, bottom], move)])
                box, form = [left, top, right - left, bottom - top], "xywh"
        item.objects[index] = replace(each, box=box, form=form, polygons=polygons, fault=fault)


def _move_points(points: Sequence[float], move: Point) -> list[float]:
    return [value for x, y in zip(points[::2], points[1::2], strict=True) for value in move(x, y)]


def _describe(item: AnnotatedImage, size: Size) -> str:
    """Describe how a stated size differs from that of the file, with the readings."""
    assert item.size is not None
    down, across = size[0] / item.size[0], size[1] / item.size[1]
    stated = f"{item.place or 'the annotation'} states {_show(item.size)}"
    if item.size == size[::-1]:
        return (
            f"{stated}, but the image has {_show(size)} and no EXIF orientation: either width and"
            " height are exchanged (data.rescale=false reads the coordinates in the pixels of the"
            " file), or the image was turned after it was annotated"
        )
    alike = abs(down - across) <= 1 / min(item.size)
    factor = f"{across:.4g}" if alike else f"{across:.4g} across and {down:.4g} down"
    return (
        f"{stated}, but the image has {_show(size)}: data.rescale=true scales the coordinates by"
        f" {factor}, data.rescale=false reads them in the pixels of the file"
    )


def _show(size: Size | None) -> str:
    assert size is not None
    return f"{size[1]} x {size[0]} pixels"
