"""The images of a COCO file: those that it lists, and where their files are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import DataError
from finetune.listing.split_names import split_of
from finetune.listing.walking import describe_contents, list_visible
from tasks.coco.coco_categories import coco_name
from tasks.image.image_search import ImageSearch, configured_places
from tasks.objects.annotated import AnnotatedImage


def list_coco_images(
    file: Path, items: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Mapping[str, Any], AnnotatedImage]], str]:
    """Return the images with the items that list them, and a note on those listed repeatedly."""
    if not items:
        raise DataError(f"{file}: lists no images")
    by_id: dict[Any, tuple[Mapping[str, Any], AnnotatedImage]] = {}
    repeated = 0
    for item in items:
        name = _file_name(item)
        other = by_id.get(item["id"])
        if other is not None and other[1].file != name:
            raise DataError(
                f"{file}: image id {item['id']!r} is used by {other[1].file} and {name}, so its"
                " annotations may belong to either; give each image an id of its own"
            )
        repeated += other is not None
        size = (_whole(item.get("height")), _whole(item.get("width")))
        image = AnnotatedImage("", name, size=size if all(size) else None)
        image.place = f"{file.name}, image {item['id']}"
        by_id.setdefault(item["id"], (item, image))
    note = f"{file.name}: images listed again with the same id and file_name: {repeated}"
    return list(by_id.values()), note if repeated else ""


def _file_name(item: Mapping[str, Any]) -> str:
    """Return the name of an image: its file_name, or the end of its coco_url, as LVIS has it."""
    if not item.get("file_name") and item.get("coco_url"):
        return "/".join(str(item["coco_url"]).split("/")[-2:])
    return coco_name(item, "file_name")


def _whole(value: Any) -> int:
    return int(float(value)) if value else 0


def find_coco_images(
    file: Path, images: Sequence[AnnotatedImage], folder: str | None
) -> Iterator[str]:
    """Fill in the paths of images, and yield notes. Raises DataError if no image is found."""
    above, stem = file.parent.parent, file.stem.rpartition("_")[2]
    places = [
        file.parent,
        file.parent / "images",
        *(root / part for root in (above, above / "images") for part in ("", stem)),
        *(root / part for root in (file.parent, above) for part in ("data", f"images/{stem}")),
    ]
    split = split_of(file.stem)
    places += [file.parent / stem, file.parent / file.stem]
    is_apart = file.parent.name.lower() in ("annotations", "labels", "annotation")
    beside = _folders_in(file.parent, *([above] if is_apart else []))
    places += [each for each in beside if split and split == split_of(each.name)]
    if folder is not None:
        places = configured_places(folder, file)
    search = ImageSearch(above if is_apart else file.parent, places)
    paths = search.find([image.file for image in images])
    if not any(paths):
        first = images[0].file
        searched = ", ".join(map(str, places[:6]))
        raise DataError(
            f"{file}: image {first!r} not found in {searched}; move the images to one of them"
            f" (found in {file.parent}: {describe_contents(file.parent)})"
        )
    for image, path in zip(images, paths, strict=True):
        image.image = (path or search.expected(image.file)).as_posix()
    if search.way:
        yield f"images are not where file_name says, and were found {search.way}"


def _folders_in(*places: Path) -> list[Path]:
    return [child for place in places for child in list_visible(place) if child.is_dir()]
