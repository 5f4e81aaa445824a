"""KITTI: a .txt file of objects per image, as the 2D benchmark, DIGITS and TAO have them.

    training/image_2/000001.png    training/label_2/000001.txt
    train/images/1.jpg             train/labels/1.txt

    Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59

The class, truncation, occlusion, an angle, then left, top, right, bottom; the rest is about 3D and
not read. DontCare is a region whose objects are not annotated. The format is that of
cvlibs.net/datasets/kitti.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.split_names import split_name
from finetune.listing.walking import list_readable
from tasks.image.image_search import ImageSearch, configured_places, walk_images
from tasks.objects.annotated import Annotated, AnnotatedImage, box_row

_FOLDERS = {"label_2": "image_2", "labels": "images"}  # of labels and of images
_NUMBER = r"-?\d+(\.\d+)?([eE]-?\d+)?"
_LINE = re.compile(rf"[A-Za-z]\S*(\s+{_NUMBER}){{14,15}}\s*")
_BOX = slice(4, 8)
_LOOKED_AT = 20
_UNLABELED = "DontCare"
_SHOWN = 3


def find_kitti(path: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders (labels, images) at a path by split; {} if there are none."""
    found: dict[str, tuple[Path, Path]] = {}
    for folder in (path, *(child for child in list_readable(path) if child.is_dir())):
        split = split_name(folder.name) or "train"
        for labels, images in _FOLDERS.items():
            pair = (folder / labels, folder / images)
            if split not in found and pair[0].is_dir() and _has_lines(pair[0]):
                found[split] = pair
    return found


def _has_lines(folder: Path) -> bool:
    """True if the first line of the first files is an object."""
    for file in islice((f for f in list_readable(folder) if f.suffix == ".txt"), _LOOKED_AT):
        with file.open(encoding="utf-8", errors="replace") as opened:
            if line := next((line for line in opened if line.strip()), ""):
                return bool(_LINE.fullmatch(line))
    return False


def read_kitti(path: Path, config: DataConfig) -> TaskTables:
    """Return rows of object detection by split, and notes. Raises DataError."""
    pairs = find_kitti(path)
    if not pairs:
        raise DataError(
            f"{path}: no label_2/ beside image_2/ with labels of KITTI found; name the folder that "
            "holds them, or another data.format"
        )
    splits, notes = {}, [f"{path}: read as KITTI; of each line, the class and the box are read"]
    for split, (labels, images) in pairs.items():
        unread: Counter[str] = Counter()
        found = list(_images(labels, images, path, config, unread))
        splits[split] = [box_row(image) for image in found]
        notes += [f"{split}: not read: {count} {name}" for name, count in unread.items()]
        used = {image.image for image in found}
        lone = [each.name for each in walk_images(images) if each.as_posix() not in used]
        if lone and config.images is None:
            notes.append(
                f"{split}: images without a label file, not read: {len(lone)}"
                f" ({listed(lone, _SHOWN)})"
            )
    return TaskTables(splits, notes)


def _images(
    labels: Path, images: Path, root: Path, config: DataConfig, unread: Counter[str]
) -> Iterator[AnnotatedImage]:
    files = [file for file in list_readable(labels) if file.suffix == ".txt"]
    places = configured_places(config.images, labels) if config.images else [images]
    search = ImageSearch(places[0], places)
    paths = search.find([file.stem for file in files])
    if not any(paths):
        raise DataError(
            f"{labels}: image {files[0].stem!r} not found in {places[0]}, nor any other of"
            f" {len(files)}; move the images there, or set data.images=FOLDER"
        )
    for file, path in zip(files, paths, strict=True):
        place = file.relative_to(root).as_posix()
        image = AnnotatedImage((path or search.expected(file.stem)).as_posix(), place)
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split()
            if words and words[0] == _UNLABELED:
                unread[f"regions {_UNLABELED}, whose objects are learned as background"] += 1
            elif words:
                image.objects.append(_object(words, f"{place}:{number}"))
        yield image


def _object(words: list[str], place: str) -> Annotated:
    item = Annotated(words[0], place=place)
    try:
        item.box = [float(word) for word in words[_BOX]]
    except ValueError:
        item.fault = f"box {words[_BOX]} is not four numbers"
        return item
    if len(item.box) != 4 or not all(map(math.isfinite, item.box)):
        item.fault = f"has {len(words)} words; 15 are needed, of which 5 to 8 are the box"
    return item


KITTI_BOXES = DataFormat(
    "kitti", lambda path: bool(find_kitti(path)), read_kitti, "KITTI (label_2/ beside image_2/)"
)
