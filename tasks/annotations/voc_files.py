"""The .xml file of an image in Pascal VOC's format.

An <annotation> has a <filename>, a <size>, and an <object> for each object, with <name> and
<bndbox> of xmin, ymin, xmax, ymax in pixels. Objects marked <difficult> become crowds, which
metrics ignore. Of a turned box, the box around it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from finetune.errors import DataError
from tasks.objects.annotated import Annotated
from tasks.objects.boxes import turn_box

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_BOXES = (["bndbox"], ["robndbox"])  # robndbox: a turned box of roLabelImg
_UPRIGHT = ("", "0", "0.0")  # rotation
_HEAD = 4096
_DEEPEST = 50
_ROOT = re.compile(rb"<annotation[\s>]")


def is_voc_file(file: Path) -> bool:
    """True if a file begins like an annotation: CVAT and others also write .xml files."""
    try:
        with file.open("rb") as opened:
            return _ROOT.search(opened.read(_HEAD)) is not None
    except OSError:
        return False


def _corners(item: dict[str, Any]) -> list[float]:
    """Return the corners of an object, or those of the box around a turned one.

    Raises KeyError and ValueError.
    """
    if "robndbox" in item:
        x, y, width, height = (float(item[side]) for side in ("cx", "cy", "w", "h"))
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return turn_box(corners, math.degrees(float(item["angle"])))
    corners = [float(item[side]) for side in _SIDES]
    degrees = float(item.get("rotation") or 0)
    return turn_box(corners, degrees) if degrees else corners


def read_voc_file(file: Path, place: str) -> VocFile:
    """Parse a file, called `place` in messages. Raises DataError if it is not valid."""
    return VocFile(file, place).parse()


class VocFile:
    """Parser of one .xml file that records the line at which each object begins."""

    def __init__(self, file: Path, place: str) -> None:
        self._file, self._place = file, place
        self._path: list[str] = []
        self._text = ""
        self._objects: list[dict[str, Any]] = []
        self._attribute: dict[str, str] = {}
        self._size: dict[str, str] = {}
        self.file_name = ""
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text
        self._expat.EntityDeclHandler = self._refuse_entity

    def parse(self) -> VocFile:
        try:
            self._expat.Parse(self._file.read_bytes(), True)
        except (OSError, expat.ExpatError) as error:
            raise DataError(f"{self._file}: not a valid XML file: {error}") from error
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """The stated size (H, W); None if there is none."""
        try:
            height, width = (int(float(self._size[side])) for side in ("height", "width"))
        except (KeyError, ValueError, OverflowError):
            return None
        return (height, width) if height > 0 and width > 0 else None

    def objects(self) -> Iterator[Annotated]:
        """Yield the objects in order."""
        for number, item in enumerate(self._objects, start=1):
            box, fault = [], ""
            try:
                box = _corners(item)
            except KeyError as error:
                tag = "robndbox" if "robndbox" in item else "bndbox"
                fault = f"<{tag}> has no <{error.args[0]}>"
            except (ValueError, OverflowError) as error:
                fault = f"<bndbox> has a value that is not a number: {error}"
            yield Annotated(
                item.get("name", ""),
                box,
                number=number,
                iscrowd=int(item.get("difficult") == "1"),
                place=f"{self._place}:{item['line']}",
                is_turned="robndbox" in item or item.get("rotation", "0.0") not in _UPRIGHT,
                fault=fault,
            )

    def _refuse_entity(self, name: str, *_: object) -> None:
        # Nested entities expand a small file to gigabytes.
        raise DataError(
            f"{self._file}: declares the entity {name!r}, which annotations do not need; remove"
            " <!DOCTYPE ...> from the file"
        )

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > _DEEPEST:
            raise DataError(
                f"{self._file}: its tags are nested more than {_DEEPEST} deep, unlike annotations;"
                " export it again"
            )
        self._text = ""
        if tag == "attribute":
            self._attribute = {}
        if self._path[1:] == ["object"]:
            self._objects.append({"line": self._expat.CurrentLineNumber})

    def _add_text(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        where, text = self._path[1:], self._text.strip()
        if where == ["filename"]:
            self.file_name = text
        elif where[:1] == ["size"] and len(where) == 2:
            self._size[tag] = text
        elif where[:1] == ["object"] and (where[1:2] in _BOXES or len(where) == 2):
            self._objects[-1][tag] = text
        elif where[:3] == ["object", "attributes", "attribute"]:  # of CVAT
            self._attribute[tag] = text
            if self._attribute.get("name") == "rotation":
                self._objects[-1]["rotation"] = self._attribute.get("value", "")
        self._path.pop()
