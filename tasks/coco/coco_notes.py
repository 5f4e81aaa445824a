"""Notes on what a COCO file holds and nothing is learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import DataError, listed
from tasks.objects.annotated import AnnotatedImage

# Fields that are read, and fields of images that are bookkeeping.
_FIELDS = {"id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}
_OF_IMAGES = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url"}
_OF_IMAGES |= {"date_captured", "rights_holder", "data_captured", "path", "url"}
_POINTS = 6  # numbers of the smallest polygon
_SHOWN = 5


def note_unread_fields(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield notes on the fields with a value that are neither read nor bookkeeping, with counts."""
    empty: tuple[Any, ...] = (None, "", [], {})
    for name, items, read in (
        ("images", images, _OF_IMAGES),
        ("annotations", annotations, _FIELDS),
    ):
        fields = Counter(key for item in items for key, value in item.items() if value not in empty)
        if unread := [f"{key} ({count})" for key, count in fields.items() if key not in read]:
            yield f"fields of {name}, not read: {listed(unread, _SHOWN)}"


def note_unlisted(file: Path, ids: Sequence[Any], annotations: int) -> str:
    """Note the annotations whose images are not listed. Raises DataError if these are all."""
    named = listed(map(repr, dict.fromkeys(ids)), _SHOWN)
    if len(ids) == annotations:
        raise DataError(
            f"{file}: none of the annotations ({annotations}) is of a listed image (image_id "
            f"{named}); correct the ids of the images or of the annotations"
        )
    return (
        f"warning: {file.name}: {len(ids)} of {annotations} annotations are of images that the file"
        f" does not list, and are not read (image_id {named})"
    )


def note_unlearned(images: Sequence[AnnotatedImage], names: Sequence[str]) -> Iterator[str]:
    """Yield a note on each thing of the file that nothing is learned from."""
    objects = [each for image in images for each in image.objects]
    counts = Counter(each.category for each in objects)
    counts.update(label for image in images for label in image.labels or ())
    if unused := [name for name in dict.fromkeys(names) if not counts[name]]:
        yield f"categories without annotations: {listed(unused, _SHOWN)}"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield f"warning: several categories are called {listed(twice, _SHOWN)}; read as one class"
    short = [each for each in objects for line in each.polygons if len(line) < _POINTS]
    if short:
        where = short[0].place.partition(", ")[2]
        yield f"polygons with fewer than 3 points, left out: {len(short)} (first: {where})"
