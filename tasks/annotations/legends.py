"""Legends beside masks, which map values or colors to class names.

classes.txt      background                        one name per line, from value 0
labelmap.txt     car:255,0,0::                     CVAT
class_dict.csv   name,r,g,b  car,255,0,0           CamVid and others on Kaggle
legend.tsv       value color class  1 #ff0000 car  written by `finetune predict --draw`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune.errors import DataError

Legend = list[str] | dict[str, list[int]]
"""Names of the values 0, 1, ..., or {name: [red, green, blue]}."""
_NAMES = "classes.txt"


def read_legend(root: Path) -> Legend | None:
    """Read the legend of a folder, or return None if it has none.

    Raises DataError for a malformed line.
    """
    if (root / _NAMES).is_file():
        lines = (root / _NAMES).read_text(encoding="utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    files = (root / name for name in _COLORS)
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else _read_colors(file)


def _read_colors(file: Path) -> dict[str, list[int]]:
    parse, form = _COLORS[file.name]
    colors: dict[str, list[int]] = {}
    lines = file.read_text(encoding="utf-8-sig").splitlines()
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
    return line.replace(" ", "").lower() in ("name,r,g,b", "value\tcolor\tclass")


def _parse_cvat(line: str) -> tuple[str, list[int]]:
    name, _, rest = line.partition(":")
    return name, [int(value) for value in rest.partition(":")[0].split(",")]


def _parse_csv(line: str) -> tuple[str, list[int]]:
    name, *color = line.rsplit(",", 3)
    return name.strip('"'), [int(value) for value in color]


def _parse_tsv(line: str) -> tuple[str, list[int]]:
    _, color, name = line.split("\t")
    return name, list(bytes.fromhex(color.removeprefix("#")))


_COLORS: dict[str, tuple[Callable[[str], tuple[str, list[int]]], str]] = {
    "labelmap.txt": (_parse_cvat, "name:r,g,b"),
    "class_dict.csv": (_parse_csv, "name,r,g,b"),
    "legend.tsv": (_parse_tsv, "value, #rrggbb and class between tabs"),
}
