"""The page of an exploration: one HTML file with a map of the rows, which needs no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from finetune.io.files import write_text

_TEXT_BYTES = 12_000_000  # of the texts of all rows, which sets how much of each is shown
_LONGEST = 300  # characters
_SPAN = 4095  # coordinates are integers from 0


@dataclass(frozen=True)
class MapColor:
    """A column to color the map by.

    Attributes:
        values: numbers, or the index in `names` of each row's class, -1 for none.
        names: the classes, None for numbers.
        typical: of each class the indices of rows whose pictures stand for it in the legend.
    """

    name: str
    values: Sequence[Any]
    names: Sequence[str] | None = None
    typical: Sequence[Sequence[int]] = ()

    @classmethod
    def of_column(cls, name: str, values: Sequence[Any]) -> MapColor:
        """Make classes of texts and truth values, numbers of numbers."""
        if all(isinstance(value, bool | str | None) for value in values):
            names = sorted({str(value) for value in values if value not in (None, "")})
            places = {text: index for index, text in enumerate(names)}
            return cls(name, [places.get(str(value), -1) for value in values], names)
        numbers = [None if value is None or not math.isfinite(value) else value for value in values]
        return cls(name, numbers)

    def record(self) -> dict[str, Any]:
        if self.names is not None:
            shown = [list(rows) for rows in self.typical]
            record = {"name": self.name, "values": list(self.values), "names": list(self.names)}
            return record | ({"typical": shown} if shown else {})
        known = [value for value in self.values if value is not None] or [0]
        low, high = float(min(known)), float(max(known))
        digits = max(0, 3 - math.floor(math.log10(max(high - low, 1e-9))))
        values = [None if v is None else round(float(v), digits) for v in self.values]
        return {
            "name": self.name,
            "values": values,
            "low": round(low, digits),
            "high": round(high, digits),
        }


def write_page(
    path: Path,
    title: str,
    rows: Sequence[int],
    texts: Sequence[str],
    maps: Mapping[str, np.ndarray],
    colors: Sequence[MapColor],
    figures: Sequence[str],
    pictures: Mapping[int, str],
) -> None:
    """Write the page. `rows` are numbers from 0, `pictures` data URLs of some, by index."""
    length = min(_LONGEST, max(40, _TEXT_BYTES // max(len(texts), 1)))
    data = {
        "title": title,
        "rows": list(map(int, rows)),
        "texts": [text if len(text) <= length else f"{text[:length]} ..." for text in texts],
        "maps": {name: _quantize(coordinates) for name, coordinates in maps.items()},
        "colors": [color.record() for color in colors],
        "figures": list(figures),
        "pictures": dict(pictures),
    }
    # In a script, no text of a row may read as the end of it or as the start of a comment.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    template = files("finetune.exploration").joinpath("explore_page.html")
    write_text(path, template.read_text(encoding="utf-8").replace("__DATA__", text))


def _quantize(coordinates: np.ndarray) -> list[int]:
    """Scale a map [N, 2] to integers, x and y by the same factor; return them in one list."""
    low, high = coordinates.min(0), coordinates.max(0)
    span = max(float((high - low).max()), 1e-12)
    centered = (coordinates - (low + high) / 2) / span + 0.5
    flat: list[int] = (centered * _SPAN).round().astype(int).ravel().tolist()
    return flat
