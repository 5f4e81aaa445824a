"""Pascal VOC annotations, read as rows by split: one .xml file per image.

    Annotations/1.xml  JPEGImages/1.jpg  ImageSets/Main/train.txt  val.txt
    train/1.xml  train/1.jpg  valid/...                             beside the images
    1.xml  1.jpg                                                    no splits

The format is that of host.robots.ox.ac.uk/pascal/VOC: <object> with <name> and <bndbox> of xmin,
ymin, xmax, ymax in pixels. Objects marked <difficult> become crowds, which metrics ignore.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from finetune.config.formats import IMAGE_ENDINGS
from finetune.data.image_files import is_image_file, list_visible
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import make_annotation
from tasks.annotations.coco import split_of

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(path: Path) -> dict[str, list[Path]]:
    """Return the .xml files of a folder by split; {} if there are none."""
    if not path.is_dir():
        return {}
    files = sorted((path / "Annotations").glob("*.xml")) or sorted(path.glob("*.xml"))
    if files:
        return _by_lists(path / "ImageSets" / "Main", files) or {"train": files}
    splits: dict[str, list[Path]] = {}
    for child in list_visible(path):
        split = split_of(child.name) if child.is_dir() else None
        inside = [file for files in find_voc(child).values() for file in files] if split else []
        if split and inside:
            splits[split] = inside
    return splits


def read_voc(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every split of a folder.

    Raises DataError if there are no .xml files, or if a file or its image cannot be read.
    """
    splits = find_voc(path)
    if not splits:
        raise DataError(
            f"{path}: no .xml files of Pascal VOC found, in Annotations/ or beside the images"
        )
    return {split: [_row(file, path) for file in files] for split, files in splits.items()}


def _by_lists(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Return the files listed in ImageSets/Main/train.txt etc.; trainval only without train."""
    by_stem = {file.stem: file for file in files}
    splits: dict[str, list[Path]] = {}
    for name in ("train", "val", "test", "trainval"):
        lines = folder / f"{name}.txt"
        split = split_of(name) or "train"
        if lines.is_file() and split not in splits:
            text = lines.read_text(encoding="utf-8")
            stems = [line.split()[0] for line in text.splitlines() if line.strip()]
            splits[split] = [by_stem[stem] for stem in stems if stem in by_stem]
    return {split: listed for split, listed in splits.items() if listed}


def _row(file: Path, root: Path) -> Row:
    content = _Parser(file, file.relative_to(root).as_posix()).parse()
    image = _find_image(file, content.file_name)
    return {
        "image": image.as_posix(),
        "file": image.relative_to(root).as_posix() if root in image.parents else image.name,
        "objects": list(content.objects()),
    }


def _find_image(file: Path, name: str) -> Path:
    """Return the image of an .xml file: the one with the name given there, or with its stem."""
    folders = [file.parent, file.parent.parent / "JPEGImages", file.parent.parent / "images"]
    name = name.replace("\\", "/").rpartition("/")[2]
    for folder in folders:
        if name and is_image_file(name) and (folder / name).is_file():
            return folder / name
        for suffix in sorted(IMAGE_ENDINGS):
            for ending in (suffix, suffix.upper()):
                if (folder / f"{file.stem}{ending}").is_file():
                    return folder / f"{file.stem}{ending}"
    searched = ", ".join(map(str, folders))
    raise DataError(f"{file}: image {name or file.stem!r} not found in {searched}")


class _Parser:
    """Parser of one .xml file that records the line at which each object begins."""

    def __init__(self, file: Path, place: str) -> None:
        self._file, self._place = file, place
        self._path: list[str] = []
        self._text = ""
        self._objects: list[dict[str, Any]] = []
        self.file_name = ""
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text

    def parse(self) -> _Parser:
        try:
            self._expat.Parse(self._file.read_bytes(), True)
        except (OSError, expat.ExpatError) as error:
            raise DataError(f"{self._file}: not a valid XML file: {error}") from error
        return self

    def objects(self) -> Iterator[dict[str, Any]]:
        for item in self._objects:
            box, fault = [], ""
            try:
                box = [float(item[side]) for side in _SIDES]
            except KeyError as error:
                fault = f"<bndbox> has no <{error.args[0]}>"
            except ValueError as error:
                fault = f"<bndbox> has a value that is not a number: {error}"
            place, is_difficult = f"{self._place}:{item['line']}", item.get("difficult") == "1"
            yield make_annotation(
                box, "xyxy", item.get("name", ""), place, fault, int(is_difficult)
            )

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._path.append(tag)
        self._text = ""
        if self._path[1:] == ["object"]:
            self._objects.append({"line": self._expat.CurrentLineNumber})

    def _add_text(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        where, text = self._path[1:], self._text.strip()
        if where == ["filename"]:
            self.file_name = text
        elif where[:1] == ["object"] and (where[1:2] == ["bndbox"] or len(where) == 2):
            self._objects[-1][tag] = text
        self._path.pop()
