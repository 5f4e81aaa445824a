"""Public datasets that are recognized and refused, each with a way to a form that is read.

Read as folders of classes or as tables, they would be misunderstood: the folders of WIDER FACE are
events, a split of OpenImages holds the folder data/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.listing.walking import list_readable, walk_visible
from tasks.exports.export_files import json_head

_WALKED = 2000  # files of a folder among which those of a dataset are looked for
_LOOKED_AT = 20  # of them, the files that are opened
_WIDER = re.compile(r"wider_face_(train|val|test)_bbx_gt\.txt|wider_face_split|WIDER_(train|val)")
_ADE = re.compile(r"ADE_(train|val|frame)_\d+_seg\.png")
_VISDRONE_LINE = re.compile(r"(-?\d+,){7}-?\d+,?\s*")
_DOTA_LINE = re.compile(r"(-?\d+(\.\d+)?\s+){8}[A-Za-z]\S*(\s+[0-2])?\s*")
_DOTA_HEAD = ("imagesource:", "gsd:")
_VERDICTS = {"ImageID", "LabelName", "Confidence"}  # columns of OpenImages
_OPEN_IMAGES = re.compile(r"(train|validation|test)-annotations-(bbox|object-segmentation)\.csv")


class _Refusal(NamedTuple):
    """A dataset: its name, the search for it, what its annotations are, and the remedy."""

    name: str
    fits: Callable[[Path], bool]
    reason: str


def _near(path: Path) -> Iterator[Path]:
    """Yield a path, its children and theirs."""
    yield path
    for child in list_readable(path):
        yield child
        yield from list_readable(child)


def _is_wider_face(path: Path) -> bool:
    return any(_WIDER.fullmatch(each.name) for each in _near(path))


def _is_bdd(path: Path) -> bool:
    files = [path] if path.is_file() else walk_visible(path, _WALKED)
    heads = (json_head(file) for file in files if file.suffix.lower() == ".json")
    return any(
        head.bracket == "[" and {"name", "labels"} <= head.at(2) and "box2d" in head.at(4)
        for head in islice(heads, _LOOKED_AT)
    )


def _is_visdrone(path: Path) -> bool:
    folders = (each for each in _near(path) if each.name == "annotations" and each.is_dir())
    return any(_VISDRONE_LINE.fullmatch(_first_line(each)) for each in folders)


def _is_dota(path: Path) -> bool:
    folders = (each for each in _near(path) if each.name.startswith("labelTxt") and each.is_dir())
    return any(_DOTA_LINE.fullmatch(_first_line(each, _DOTA_HEAD)) for each in folders)


def _first_line(folder: Path, heads: tuple[str, ...] = ()) -> str:
    """Return the first line of the first text file in a folder that has one, "" if none has."""
    files = (file for file in list_readable(folder) if file.suffix == ".txt" and file.is_file())
    for file in islice(files, _LOOKED_AT):
        with file.open(encoding="utf-8", errors="replace") as opened:
            for line in islice(opened, len(heads) + 1):
                if line.strip() and not line.startswith(heads or "\0"):
                    return line
    return ""


def _is_ade(path: Path) -> bool:
    return path.is_dir() and any(_ADE.fullmatch(file.name) for file in walk_visible(path, _WALKED))


def _is_open_images(path: Path) -> bool:
    if any(_OPEN_IMAGES.fullmatch(each.name) or _has_verdicts(each) for each in _near(path)):
        return True
    tables = ("labels/detections.csv", "labels/classifications.csv")  # as FiftyOne writes them
    return any((each / table).is_file() for each in _near(path) for table in tables)


def _has_verdicts(file: Path) -> bool:
    """True for a table of labels of images that are present or absent."""
    if file.suffix.lower() != ".csv" or not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as opened:
        return {name.strip() for name in opened.readline().split(",")} >= _VERDICTS


_EVERYWHERE = (
    _Refusal(
        "WIDER FACE",
        _is_wider_face,
        "its boxes are in wider_face_*_bbx_gt.txt, which is not read, and its folders are events:"
        " convert it to COCO or YOLO for task=object-detection, or choose a folder of events with"
        " data.source=WIDER_train/images data.format=image-folder for task=image-classification",
    ),
    _Refusal(
        "BDD100K",
        _is_bdd,
        "its labels are .json files of Scalabel, which are not read: convert them to COCO"
        " (`python -m bdd100k.label.to_coco`)",
    ),
    _Refusal(
        "VisDrone",
        _is_visdrone,
        "its annotations/*.txt hold lines of left,top,width,height,score,class,..., which are not"
        " read: convert them to YOLO (Ultralytics' VisDrone.yaml does)",
    ),
    _Refusal(
        "DOTA",
        _is_dota,
        "its labelTxt/*.txt hold turned boxes by their corners, which are not read: convert them to"
        " YOLO (`ultralytics.data.converter.convert_dota_to_yolo_obb`); the boxes around them are"
        " learned then",
    ),
    _Refusal(
        "the full release of ADE20K",
        _is_ade,
        "its *_seg.png hold classes and instances in one color, of 3000 classes, which are not"
        " read: take the release of 150 classes (ADEChallengeData2016, also called SceneParse150)",
    ),
)
_FOR_CLASSES = _Refusal(
    "OpenImages",
    _is_open_images,
    "an image has several objects and labels, and Confidence 0 means that a label is absent:"
    " task=object-detection reads its boxes; for task=image-classification, give a table of a line"
    " per image and a column of its labels",
)


def _format(refusal: _Refusal) -> DataFormat:
    def refuse(path: Path, _: DataConfig) -> TaskTables:
        raise DataError(
            f"{path}: looks like {refusal.name}; {refusal.reason}. If it is something else, name"
            " its format with data.format"
        )

    return DataFormat("auto", refusal.fits, refuse)


REFUSED_SETS = tuple(map(_format, _EVERYWHERE))
REFUSED_CLASSES = (*REFUSED_SETS, _format(_FOR_CLASSES))
