"""The images that an export names: where they are, and what is made of their objects.

Tools name images by paths of other machines: /data/upload/1/1a2b3c4d-cat.jpg, s3://bucket/cat.jpg,
C:\\photos\\cat.jpg, /data/local-files/?d=photos%2Fcat.jpg.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file, is_readable_file
from finetune.listing.split_names import split_of
from finetune.listing.walking import list_readable, list_visible
from tasks.exports.export_files import no_export, only_export, show_count
from tasks.exports.outlines import join_shapes
from tasks.image.image_search import ImageSearch, configured_places
from tasks.objects.annotated import Annotated, AnnotatedImage, number_of_name, refuse_repeated
from tasks.objects.image_sizes import fit_sizes

Splits = dict[str, list[AnnotatedImage]]
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "data", "photos", "pictures")
_UPLOADED = re.compile(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)")  # what Label Studio puts before a name
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SHOWN = 3


@dataclass
class Reading:
    """Content of an export: the parts that are read, and those that are not.

    Attributes:
        splits: the images of each split.
        unread: {what: count} of the things in it that are not read, in the plural.
        remarks: {sentence: count} of the objects that are read in a way to be told.
        classes: the classes that the export lists, with or without objects.
        notes: further sentences.
    """

    splits: Splits = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _groups: dict[Any, Annotated] = field(default_factory=dict)

    def add(self, image: AnnotatedImage, split: str = "train") -> None:
        self.splits.setdefault(split, []).append(image)

    def add_object(self, image: AnnotatedImage, item: Annotated, group: Any = None) -> None:
        """Add an object to an image, or its shape to the object of the same class and group."""
        key = (id(image), item.category, str(group))
        is_single = group in (None, "", 0, "0") or bool(item.fault or item.counts)
        first = item if is_single else self._groups.setdefault(key, item)
        if first is item:
            image.objects.append(item)
        else:
            join_shapes(first, item)
            self.remarks["shapes joined to the object of their group"] += 1

    def join(self, other: Reading) -> None:
        """Add what was read of another file."""
        for split, images in other.splits.items():
            self.splits.setdefault(split, []).extend(images)
        self.unread += other.unread
        self.remarks += other.remarks
        self.classes += [name for name in other.classes if name not in self.classes]
        self.notes += other.notes

    @property
    def images(self) -> list[AnnotatedImage]:
        return [image for images in self.splits.values() for image in images]


def local_name(recorded: str) -> str:
    """Return the path in a recorded name, without scheme, host, query and encoding of URLs."""
    name = recorded.strip()
    try:
        if _URL.match(name):
            parts = urlsplit(name)
            name = parts.path if parts.scheme != "file" else unquote(parts.path)
            name = _file_of(parts.query) or unquote(name).lstrip("/")
        elif "?" in name or "%" in name:
            path, _, query = name.partition("?")
            name = _file_of(query) or unquote(path)
    except ValueError:  # of urlsplit, for hosts in brackets
        pass
    return name.replace("\0", "")


def _file_of(query: str) -> str:
    """Return the file in the query of a URL of local files, "" if there is none."""
    return (parse_qs(query).get("d") or [""])[0]


def find_images(
    file: Path, splits: Mapping[str, Sequence[AnnotatedImage]], config: DataConfig, place: str = ""
) -> list[str]:
    """Fill in the paths of the images of an export, and return notes on where they were found.

    `place` names the export in notes; "": its file. Names are looked up near the file.
    """
    ways = dict[str, None]()
    for split, images in splits.items():
        places = configured_places(config.images, file) if config.images else _near(file, split)
        recorded = [image.file for image in images]
        try:
            search = ImageSearch(file.parent, places)
            paths = search.find(list(map(local_name, recorded)))
            if not any(paths) and any(map(_UPLOADED.search, recorded)):
                search = ImageSearch(file.parent, places)
                bare = [_UPLOADED.sub(r"\1", local_name(name)) for name in recorded]
                paths = search.find(bare)
        except (OSError, ValueError) as error:  # names that are too long, or not names at all
            raise DataError(f"{file}: its image names cannot be looked up: {error}") from error
        for image, path in zip(images, paths, strict=True):
            image.image = (path or search.expected(local_name(image.file))).as_posix()
        if search.way and any(paths):
            ways[search.way] = None
    return [f"{place or file.name}: images were found {way}" for way in ways]


def _near(file: Path, split: str) -> list[Path]:
    """Return the folders in which the images of an export may be."""
    folder, above = file.parent, file.parent.parent
    near = [folder, *(folder / name for name in _IMAGE_FOLDERS), folder / file.stem]
    near += [place / name for place in near[:3] for name in _names_of(split)]
    inside = (each for each in list_readable(folder) if each.is_dir())
    near += [each for each in inside if split_of(each.name) == split]
    near += [above, *(above / name for name in _IMAGE_FOLDERS)]
    # labels/train/1.json and images/train/1.jpg
    return near + [above.parent / name / folder.name for name in _IMAGE_FOLDERS]


def _names_of(split: str) -> list[str]:
    """Return the names that the folder of a split may have."""
    names = {"train": ("train", "Train"), "validation": ("validation", "Validation", "val")}
    return [split, *names.get(split, (split.title(),))]


def read_exports(
    path: Path,
    files: Mapping[str, Sequence[Path]],
    read: Callable[[Path, str, DataConfig], Reading],
    config: DataConfig,
    tool: str,
    looked_for: str,
) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes, of an export of one file per split.

    `read` reads the file of a split. Raises DataError if there is no file, or several for a split.
    """
    if not files:
        raise no_export(path, tool, looked_for)
    whole = Reading()
    for split, candidates in files.items():
        whole.join(read(only_export(path, split, candidates), split, config))
    return finish_reading(whole, config)


def finish_reading(
    reading: Reading, config: DataConfig, *, lists_images: bool = True
) -> tuple[Splits, list[str]]:
    """Number the categories, fit the sizes, and describe what is not read.

    With `lists_images`, images that lie among those of the export are named.
    """
    images = reading.images
    check_found(images)
    for split in reading.splits.values():
        refuse_repeated(split)
    objects = [each for image in images for each in image.objects]
    number_categories(objects)
    notes = list(reading.notes)
    for sentence, count in reading.remarks.items():
        notes.append(f"{sentence}: {count}")
    if reading.unread:
        notes.append(f"not read: {show_count(reading.unread)}")
    bare = sum(not image.objects for image in images)
    if bare and (objects or not any(image.labels for image in images)):
        notes.append(f"images without objects: {bare} of {len(images)}")
    used = {each.category for each in objects}
    if unused := [name for name in reading.classes if name not in used]:
        notes.append(f"classes without objects: {listed(unused, _SHOWN)}")
    notes += [*fit_sizes(images, config.rescale), *(_unnamed(images) if lists_images else [])]
    return reading.splits, list(dict.fromkeys(notes))


def has_image(image: AnnotatedImage) -> bool:
    """True if an image is stored in the annotations or is a file."""
    return bool(image.content) or is_readable_file(Path(image.image))


def check_found(images: Sequence[AnnotatedImage]) -> None:
    """Raise DataError if no image is found at all: one that is missing is a fault of its row."""
    if images and not any(map(has_image, images)):
        first = images[0]
        raise DataError(
            f"{first.place}: image {first.file!r} not found, nor any other of {len(images)}; looked"
            f" for {first.image}; move the images there, or set data.images=FOLDER"
        )


def number_categories(objects: Iterable[Annotated]) -> None:
    """Number categories by their names.

    An object without a category gets a fault. Raises DataError if two names have one number.
    """
    names: dict[int, str] = {}
    for number, each in enumerate(objects, start=1):
        each.category = each.category.strip()
        each.number = each.number or number
        each.category_id = number_of_name(each.category)
        if not each.category:
            each.fault = each.fault or "has no label"
        if names.setdefault(each.category_id, each.category) != each.category:
            other = names[each.category_id]
            raise DataError(f"classes {other!r} and {each.category!r}: rename one of them slightly")


def _unnamed(images: Sequence[AnnotatedImage]) -> Iterator[str]:
    """Yield a note on the images that lie among those of an export, which does not name them."""
    paths = {image.image for image in images}
    folders = sorted({Path(path).parent for path in paths if is_readable_file(Path(path))})
    files = (path for folder in folders for path in list_visible(folder) if is_image_file(path))
    lone = [path.name for path in files if path.as_posix() not in paths]
    if lone:
        yield f"images without annotations, not read: {len(lone)} ({listed(lone, _SHOWN)})"
