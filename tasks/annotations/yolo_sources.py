"""Descriptions of YOLO datasets: the class names, and where the images of each split are.

    data.yaml         {path: ., train: images/train, val: images/val, names: [cat, dog]}
    obj.data          train = data/train.txt, names = data/obj.names       Darknet, CVAT YOLO 1.1
    classes.txt       a name per line, beside images/ and labels/          Label Studio, labelImg
    _darknet.labels   a name per line, in the folder of each split         Roboflow

Splits are folders of images, text files that list images, or images. Their paths are often those of
another machine; the longest trailing part that exists beside the description is taken then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file, is_readable_file
from finetune.listing.split_names import split_of
from finetune.listing.walking import describe_contents, list_readable, list_visible
from finetune.tables.encodings import Decoder
from tasks.annotations.yolo_labels import (
    is_label_file,
    label_file,
    label_folders,
    match_pictures,
)
from tasks.image.image_search import (
    ImageSearch,
    clean_path,
    find_suffix,
    walk_images,
)

SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "names.txt")
_SHOWN = 4
_EMPTY = ("", "null", "~", "none")
_DARKNET_FOLDERS = ("data", "cfg")  # where Darknet expects obj.data, below its own folder
_TRIED = 50  # images whose labels tell that a folder without a description is YOLO's


@dataclass
class YoloSource:
    """A dataset of YOLO.

    Attributes:
        place: the description, or the folder if there is none; for messages.
        folder: the folder that paths are relative to.
        names: class names by number; None: there are none, classes are called by their numbers.
        splits: {split: its folders, list files or images}, as written.
        root: the folder `path:` of data.yaml.
        has_keypoints: True if key points follow the box in a line, False if there are polygons;
            None: not said.
        pictures: the folder data.images, in which the images are looked for by the names of their
            label files; None: they are where the description says.
        labels: {image: label file} of the images found there.
    """

    place: Path
    folder: Path
    names: dict[int, str] | None
    splits: dict[str, list[str]]
    root: str = ""
    has_keypoints: bool | None = None
    notes: list[str] = field(default_factory=list)
    pictures: Path | None = None
    labels: dict[Path, Path] = field(default_factory=dict)

    def images(self, source: str) -> list[Path] | None:
        """Return the images of a folder, a list file or an image; None if it does not exist.

        Raises DataError for an empty folder or list.
        """
        if self.pictures is not None and (folders := self.label_folders(source)):
            found = match_pictures(folders[0], self.pictures, source)
            self.labels |= found
            return list(found)
        place = self._locate(source)
        if place is None:
            return None
        if place.is_file() and is_image_file(place):
            return [place]
        if place.is_file():
            return self._listed(place)
        images = walk_images(place)
        if not images:
            raise DataError(
                f"{place}: contains no images, but {self.place} lists it as a split; it contains "
                f"{describe_contents(place)}; data.images=FOLDER reads images of another folder"
            )
        return images

    def label_folders(self, source: str) -> list[Path]:
        """Return the folder with the label files of a split's folder of images, if there is one."""
        return label_folders(self.places(source))

    def label_file(self, image: Path) -> Path:
        """Return the path of an image's labels, which may not exist."""
        return self.labels.get(image) or label_file(image)

    def places(self, source: str) -> list[Path]:
        """Return where a folder or file of a split is looked for first."""
        names = [f"{self.root}/{source}" if self.root else source, source]
        names.append(source.removeprefix("../"))
        return list(dict.fromkeys(self.folder / name for name in names))

    def _locate(self, source: str) -> Path | None:
        places = self.places(source)
        # An exported data.yaml often has ../train/images for a folder beside it.
        place = next(filter(os.path.exists, places), None)  # False also for impossible names
        if place is None:
            place = find_suffix(f"{self.root}/{source}", [self.folder])
            if place is not None:
                self.notes.append(f"{self.place}: {source!r} is not here; read {place}")
        return place

    def _listed(self, file: Path) -> list[Path]:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise DataError(f"{file}: lists no images; write the path of an image per line")
        places = [file.parent, self.folder, *self.places(".")[:1]]
        places = [self.pictures] if self.pictures is not None else places
        search = ImageSearch(self.folder, [place for place in places if place.is_dir()])
        found = search.find(names)
        if search.way and any(found):
            self.notes.append(f"{file}: the images it lists were found {search.way}")
        return [path or search.expected(name) for path, name in zip(found, names, strict=True)]


def find_yolo(path: Path) -> Path | None:
    """Return the file that describes the dataset at a path, or its folder; None if not YOLO's."""
    files = list_visible(path) if path.is_dir() else [path]
    found = next(iter(_descriptions(files)), None)
    if found is None:
        inside = [file for name in _DARKNET_FOLDERS for file in list_readable(path / name)]
        darknets = [file for file in (*files, *inside) if file.suffix.lower() == ".data"]
        found = next((file for file in darknets if "names" in _pairs(file)), None)
    if found is None and path.is_dir():
        return path if _has_labels(path) else None
    return found


def _descriptions(files: Sequence[Path]) -> list[Path]:
    """Return the .yaml files that describe a dataset, data.yaml first."""
    yamls = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    return sorted(filter(_describes, yamls), key=lambda file: file.stem.lower() != "data")


def open_yolo(path: Path) -> YoloSource:
    """Read the description of a dataset. Raises DataError if it is missing or malformed."""
    place = find_yolo(path)
    if place is None:
        raise DataError(
            f"{path}: no data.yaml of YOLO with names and train found, no obj.data, and no images "
            "with labels beside them; write a data.yaml, such as {train: images/train, val: "
            f"images/val, names: [cat, dog]}}; found {describe_contents(path)}"
        )
    if place.is_dir():
        return _from_folder(place)
    source = _from_darknet(place) if place.suffix.lower() == ".data" else _from_yaml(place)
    files = list_visible(path) if path.is_dir() else []
    if others := [file.name for file in _descriptions(files) if file != place]:
        source.notes.append(f"{place}: read; not read: {', '.join(others)}")
    if path.is_dir():
        _check_names(source)
    return source


# ---- data.yaml


def _describes(file: Path) -> bool:
    """True if a file describes a dataset; a malformed one as well, which is refused later."""
    try:
        content = _content(file)
    except DataError:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        return "names:" in text and "train:" in text
    return "names" in content or ("nc" in content and "train" in content)


def _content(file: Path) -> dict[str, Any]:
    """Return data.yaml with all values as text: a class may be called no or 007."""
    try:
        # BaseLoader makes nothing but texts, lists and dicts.
        content = yaml.load(file.read_text(encoding="utf-8-sig"), yaml.BaseLoader)  # noqa: S506
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _from_yaml(file: Path) -> YoloSource:
    content = _content(file)
    splits: dict[str, list[str]] = {}
    for key in SPLIT_KEYS:
        value = content.get(key)
        sources = value if isinstance(value, list) else [value]
        given = [str(each) for each in sources if each and str(each).lower() not in _EMPTY]
        if given:
            splits.setdefault(split_of(key) or key, []).extend(given)
    if not splits:
        raise DataError(f"{file}: lists no split; set train: and val: to folders of images")
    root = str(content.get("path") or "")
    names = _names(content, file)
    shape = content.get("kpt_shape")
    is_pose = None if shape is None else str(shape).lower() not in _EMPTY
    notes = [f"{file.name}: key points, not read: only the boxes are"] if is_pose else []
    root = root if root != "." else ""
    return YoloSource(file, file.parent, names, splits, root, is_pose, notes)


def _names(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    value = content.get("names", ())
    if isinstance(value, str) and value and (path := find_suffix(value, [file.parent])):
        value = _lines(path)
    count = content.get("nc")
    if not value and str(count).isdecimal():
        return {number: str(number) for number in range(int(str(count)))}
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value or [])
    try:
        listed = [(int(number), name) for number, name in pairs]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: names is not a list or {{number: name}}: {error}") from error
    if isinstance(value, str) or not all(isinstance(name, str) for _, name in listed):
        raise DataError(f"{file}: names is not a list or {{number: name}}: {value!r:.80}")
    names: dict[int, str] = dict(listed)
    if len(set(names.values())) < len(listed):
        raise DataError(f"{file}: names has a duplicate; give each class number a distinct name")
    if str(count).isdecimal() and int(str(count)) != len(names):
        raise DataError(
            f"{file}: nc is {count}, but names has {len(names)} ({', '.join(names.values())});"
            " correct the one that is wrong, as a missing name shifts those after it"
        )
    return names


# ---- obj.data of Darknet


def _pairs(file: Path) -> dict[str, str]:
    try:
        lines = Decoder().text(file).splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _from_darknet(file: Path) -> YoloSource:
    pairs = _pairs(file)
    names = find_suffix(pairs["names"], [file.parent], os.path.isfile)
    if names is None:
        raise DataError(
            f"{file}: names file {pairs['names']!r} not found beside it; found "
            f"{describe_contents(file.parent)}"
        )
    splits = {
        split_of(key) or key: [pairs[key]] for key in SPLIT_KEYS if pairs.get(key) not in (None, "")
    }
    if not splits:
        raise DataError(f"{file}: lists no split; set train = FILE, a list of images")
    roots = (file.parent, file.parent.parent)
    root = next((each for each in roots if (each / pairs["names"]).is_file()), file.parent)
    return YoloSource(file, root, dict(enumerate(_lines(names))), splits)


def _lines(file: Path) -> list[str]:
    lines = Decoder().text(file).splitlines()
    return [line.strip() for line in lines if line.strip()]


# ---- folders without a description


def _has_labels(folder: Path) -> bool:
    """True if the images of a folder have label files."""
    for sources in _layout(folder).values():
        for source in sources:
            images = walk_images(folder / source)[:_TRIED]
            if any(is_label_file(label_file(image)) for image in images):
                return True
    named = chain(*_layout(folder).values())
    return bool(label_folders(folder / source for source in named))  # images in data.images


def _layout(folder: Path) -> dict[str, list[str]]:
    """Return the folders of images by split: split folders, those inside images/, or the folder."""
    children = {child.name: child for child in list_visible(folder) if child.is_dir()}
    images = next((name for name in children if name.lower() == "images"), None)
    below = list_visible(children[images]) if images else []
    if images is None and "labels" in children:  # images in data.images
        images, below = "images", list_visible(children["labels"])
    named = [f"{images}/{child.name}" for child in below if child.is_dir()]
    splits: dict[str, list[str]] = {}
    for name in named if images else list(children):
        if split := split_of(name.rpartition("/")[2]):
            inside = f"{name}/images"
            splits.setdefault(split, []).append(inside if (folder / inside).is_dir() else name)
    return splits or {"train": [images or "."]}


def _name_files(folder: Path, splits: Mapping[str, Sequence[str]]) -> Iterator[Path]:
    """Yield the files of class names beside the images and the labels of a dataset."""
    images = [folder / each for sources in splits.values() for each in sources]
    places = [folder, folder / "labels", *images, *(place.parent for place in images)]
    places += [label_file(place / "_.jpg").parent for place in images]
    files = (place / name for place in dict.fromkeys(places) for name in _NAME_FILES)
    return filter(is_readable_file, files)


def _check_names(source: YoloSource) -> None:
    """Raise DataError if a file of class names contradicts the description."""
    names = list((source.names or {}).values())
    for file in _name_files(source.folder, source.splits):
        other = _lines(file)
        if source.place.suffix.lower() in (".yaml", ".yml") and names != other:
            raise DataError(
                f"{source.folder}: classes are {listed(names, _SHOWN)} by {source.place.name}, but"
                f" {listed(other, _SHOWN)} by {file.relative_to(source.folder)}; remove the wrong"
                f" one, or choose with data.source={source.place}"
            )


def _from_folder(folder: Path) -> YoloSource:
    splits = _layout(folder)
    file = next(_name_files(folder, splits), None)
    source = YoloSource(file or folder, folder, None, splits)
    if file is not None:
        source.names = dict(enumerate(_lines(file)))
        source.notes.append(
            f"{folder}: no data.yaml with names; classes are named by {clean_path(file.name)}"
        )
    else:
        source.notes.append(
            f"warning: {folder}: no data.yaml with names and no classes.txt, so classes are called "
            "by their numbers; write classes.txt with a name per line, from class 0"
        )
    return source
