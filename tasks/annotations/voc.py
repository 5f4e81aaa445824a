"""Pascal VOC annotations -> rows, by split: an .xml file for each picture.

    Annotations/1.xml  JPEGImages/1.jpg  ImageSets/Main/train.txt  val.txt
    train/1.xml  train/1.jpg  valid/...                             beside the pictures
    1.xml  1.jpg                                                    no splits

The format is that of host.robots.ox.ac.uk/pascal/VOC: <object> with <name> and <bndbox> of xmin,
ymin, xmax, ymax in pixels. Objects marked <difficult> are counted neither as found nor as missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from finetune.config.formats import IMAGE_ENDINGS
from finetune.data.image_files import is_picture, visible
from finetune.errors import DataError
from finetune.task_parts import Row
from tasks.annotations.boxes import make_annotation
from tasks.annotations.coco import split_of

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(path: Path) -> dict[str, list[Path]]:
    """The .xml files of a folder by split; {} if there are none."""
    if not path.is_dir():
        return {}
    files = sorted((path / "Annotations").glob("*.xml")) or sorted(path.glob("*.xml"))
    if files:
        return _by_lists(path / "ImageSets" / "Main", files) or {"train": files}
    found: dict[str, list[Path]] = {}
    for child in visible(path):
        split = split_of(child.name) if child.is_dir() else None
        own = [file for files in find_voc(child).values() for file in files] if split else []
        if split and own:
            found[split] = own
    return found


def read_voc(path: Path) -> dict[str, list[Row]]:
    """The rows of every split of a folder. Raises DataError."""
    files = find_voc(path)
    if not files:
        raise DataError(
            f"{path}: holds no .xml files of Pascal VOC, in Annotations/ or beside the pictures"
        )
    return {split: [_row(file, path) for file in own] for split, own in files.items()}


def _by_lists(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files that ImageSets/Main/train.txt ... name; trainval only where train is missing."""
    by_stem = {file.stem: file for file in files}
    found: dict[str, list[Path]] = {}
    for name in ("train", "val", "test", "trainval"):
        lines = folder / f"{name}.txt"
        split = split_of(name) or "train"
        if lines.is_file() and split not in found:
            text = lines.read_text(encoding="utf-8")
            stems = [line.split()[0] for line in text.splitlines() if line.strip()]
            found[split] = [by_stem[stem] for stem in stems if stem in by_stem]
    return {split: own for split, own in found.items() if own}


def _row(file: Path, root: Path) -> Row:
    content = _Parser(file, file.relative_to(root).as_posix()).parse()
    picture = _picture(file, content.file_name)
    return {
        "image": picture.as_posix(),
        "file": picture.relative_to(root).as_posix() if root in picture.parents else picture.name,
        "objects": list(content.objects()),
    }


def _picture(file: Path, named: str) -> Path:
    """The picture of an .xml file: by its name there, or with the same stem."""
    folders = [file.parent, file.parent.parent / "JPEGImages", file.parent.parent / "images"]
    named = named.replace("\\", "/").rpartition("/")[2]
    for folder in folders:
        if named and is_picture(named) and (folder / named).is_file():
            return folder / named
        for suffix in sorted(IMAGE_ENDINGS):
            for ending in (suffix, suffix.upper()):
                if (folder / f"{file.stem}{ending}").is_file():
                    return folder / f"{file.stem}{ending}"
    looked = ", ".join(map(str, folders))
    raise DataError(f"{file}: its picture {named or file.stem!r} is in none of {looked}")


class _Parser:
    """Reads one .xml file, and notes the line at which each object begins."""

    def __init__(self, file: Path, place: str) -> None:
        self._file, self._place = file, place
        self._path: list[str] = []
        self._text = ""
        self._found: list[dict[str, Any]] = []
        self.file_name = ""
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._take

    def parse(self) -> _Parser:
        try:
            self._expat.Parse(self._file.read_bytes(), True)
        except (OSError, expat.ExpatError) as error:
            raise DataError(f"{self._file}: is no whole XML file: {error}") from error
        return self

    def objects(self) -> Iterator[dict[str, Any]]:
        for item in self._found:
            box, fault = [], ""
            try:
                box = [float(item[side]) for side in _SIDES]
            except KeyError as error:
                fault = f"its <bndbox> has no <{error.args[0]}>"
            except ValueError as error:
                fault = f"its <bndbox> holds no number: {error}"
            place, is_difficult = f"{self._place}:{item['line']}", item.get("difficult") == "1"
            yield make_annotation(
                box, "xyxy", item.get("name", ""), place, fault, int(is_difficult)
            )

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._path.append(tag)
        self._text = ""
        if self._path[1:] == ["object"]:
            self._found.append({"line": self._expat.CurrentLineNumber})

    def _take(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        where, text = self._path[1:], self._text.strip()
        if where == ["filename"]:
            self.file_name = text
        elif where[:1] == ["object"] and (where[1:2] == ["bndbox"] or len(where) == 2):
            self._found[-1][tag] = text
        self._path.pop()
