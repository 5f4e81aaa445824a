"""Legends beside masks, which map values or colors to class names.

classes.txt      background                        one name per line, from value 0; codes.txt
_classes.csv     1, car                            Roboflow
labelmap.txt     car:255,0,0::                     CVAT
label_colors.txt 255 0 0 car                       CamVid
class_dict.csv   name,r,g,b  car,255,0,0           CamVid and others on Kaggle
legend.tsv       value color class  1 #ff0000 car  written by `finetune predict --draw`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from finetune.errors import DataError
from finetune.tables.encodings import Decoder

Labels = list[str] | dict[str, list[int]] | dict[str, int]


class Legend(NamedTuple):
    """The names of classes, and the file that gives them.

    Attributes:
        labels: names of the values 0, 1, ..., or {name: [red, green, blue]}, or {name: value}.
    """

    file: Path
    labels: Labels


_NAMES = ("classes.txt", "codes.txt", "class_names.txt")
_VALUES = "_classes.csv"


def read_legend(root: Path) -> Legend | None:
    """Read the legend of a folder, or return None if it has none.

    Raises DataError for a malformed line.
    """
    for name in (*_NAMES, _VALUES, *_COLORS):
        file = root / name
        if file.is_file():
            return Legend(file, _read(file))
    return None


def _read(file: Path) -> Labels:
    if file.name in _NAMES:
        lines = Decoder().text(file).splitlines()
        return [line.strip() for line in lines if line.strip()]
    return _read_values(file) if file.name == _VALUES else _read_colors(file)


def _read_values(file: Path) -> Labels:
    """Return the names by value, in a list if the values count from 0."""
    values: dict[str, int] = {}
    lines = Decoder().text(file).splitlines()
    for number, line in enumerate(lines, start=1):
        value, _, name = line.partition(",")
        if value.strip().isdecimal() and name.strip():
            values[name.strip()] = int(value)
        elif line.strip() and number > 1:
            raise DataError(f"{file}, line {number}: {line!r} is not value, class")
    return list(values) if list(values.values()) == list(range(len(values))) else values


def _read_colors(file: Path) -> dict[str, list[int]]:
    parse, form = _COLORS[file.name]
    colors: dict[str, list[int]] = {}
    lines = Decoder().text(file).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#") or (number == 1 and _is_header(line)):
            continue
        try:
            name, color = parse(line)
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError
        except ValueError:
            raise DataError(f"{file}, line {number}: {line!r} is not {form}") from None
        colors[name.strip()] = color
    return colors


def _is_header(line: str) -> bool:
    return not any(map(str.isdigit, line))


def _parse_cvat(line: str) -> tuple[str, list[int]]:
    name, _, rest = line.partition(":")
    return name, [int(value) for value in rest.partition(":")[0].split(",")]


def _parse_csv(line: str) -> tuple[str, list[int]]:
    name, *color = line.rsplit(",", 3)
    return name.strip('"'), [int(value) for value in color]


def _parse_camvid(line: str) -> tuple[str, list[int]]:
    *color, name = line.split(maxsplit=3)
    return name, [int(value) for value in color]


def _parse_tsv(line: str) -> tuple[str, list[int]]:
    _, color, name = line.split("\t")
    return name, list(bytes.fromhex(color.removeprefix("#")))


_COLORS: dict[str, tuple[Callable[[str], tuple[str, list[int]]], str]] = {
    "labelmap.txt": (_parse_cvat, "name:r,g,b"),
    "label_colors.txt": (_parse_camvid, "r g b name"),
    "class_dict.csv": (_parse_csv, "name,r,g,b"),
    "legend.tsv": (_parse_tsv, "value, #rrggbb and class between tabs"),
}
