"""Reviewed lines about objects, applied to the cells of a table: relabel, move, add and drop.

A line, with boxes as left, top, right and bottom in pixels of the upright image; an empty
suggestion keeps what is given:

    {"row": 7, "object": 2, "kind": "place", "given": "cat", "suggested": "cat",
     "given_box": "12.0 30.5 80.0 99.0", "suggested_box": "10.0 30.5 80.0 99.0"}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import DataError, nearest
from finetune.task_parts.rows import Revision
from finetune.task_parts.samples import Row
from tasks.objects.boxes import (
    BOX_NAMES,
    CATEGORY_NAMES,
    Convention,
    from_corners,
    is_numbers,
    items_of,
    to_corners,
)

WRONG_CLASS, WRONG_PLACE = "class", "place"
NO_LABEL, NO_OBJECT = "object without a label", "label without an object"
"""The kinds of issues of a box: with the last two, there is none to keep, or none to give."""
SLACK = 1.0  # pixels by which a box may differ from the given one, since a table rounds it

Size = tuple[int, int]


def box_text(corners: Sequence[float]) -> str:
    """Return a box as the text of a cell."""
    return " ".join(f"{float(value):.1f}" for value in corners)


@dataclass
class ObjectReviser:
    """Reviser of cells with objects.

    Attributes:
        convention: that of all boxes; None: that of each object, else xyxy.
        name_of: function of a raw category that returns its name.
        raw: the raw category of each name that occurs.
        example: an object of the table, for the keys of one that is added.
        counts: how many objects were changed, by what was done.
    """

    convention: Convention | None
    name_of: Callable[[Any], str | None]
    raw: Mapping[str, Any]
    example: Mapping[str, Any]
    counts: Counter[str] = field(default_factory=Counter)

    def revise(self, cell: Any, revisions: Sequence[Revision], size: Size) -> Any:
        """Return a cell with the lines applied, for an image of `size` (H, W)."""
        items: list[dict[str, Any] | None] = [dict(item) for item in items_of(cell)]
        given = [dict(item) for item in items if item is not None]
        added: list[dict[str, Any]] = []
        for line, place, drops in revisions:
            place = f"{place}: row {line['row']}"
            number = _text(line, "object").removesuffix(".0")
            if not number:
                added += [] if drops else self._added(line, place, size)
                continue
            if not number.isdecimal() or not 1 <= int(number) <= len(given):
                raise DataError(
                    f"{place}: there is no object {number!r}, only 1 to {len(given)}; the data "
                    "have changed since the file was written; find label issues again"
                )
            place, at = f"{place}, object {number}", int(number) - 1
            self._check(line, given[at], place, size)
            item = items[at]
            if item is None:
                continue
            is_gone = drops or (_text(line, "kind") == NO_OBJECT and not _text(line, "suggested"))
            if is_gone:
                items[at] = None
                self.counts["dropped"] += 1
            else:
                self._change(item, line, place, size)
        kept = [*(item for item in items if item is not None), *added]
        if not isinstance(cell, Mapping):
            return kept
        return {name: [item.get(name) for item in kept] for name in cell}

    def _check(self, line: Row, item: Mapping[str, Any], place: str, size: Size) -> None:
        """Raise DataError if the object is not the one that the line was written for."""
        label, stated = self._label(item), _text(line, "given")
        corners, box = self._corners(item, size), _text(line, "given_box")
        known = _box(box, f"{place}: given_box") if box else None
        moved = corners is not None and known is not None and _differ(corners, known, size)
        if (stated and stated != label) or moved:
            found = f"{label!r}" + (f" at {box_text(corners)}" if corners else "")
            raise DataError(
                f"{place} is {found}, not {stated!r}{f' at {box}' if box else ''}; the data have "
                "changed since the file was written; find label issues again"
            )

    def _change(self, item: dict[str, Any], line: Row, place: str, size: Size) -> None:
        label, box = _text(line, "suggested"), _text(line, "suggested_box")
        if label and label != self._label(item):
            item[_key(item, CATEGORY_NAMES)] = self._raw(label, place)
            self.counts["relabeled"] += 1
        if box and box != _text(line, "given_box"):
            self._place(item, _box(box, f"{place}: suggested_box"), size)
            self.counts["moved"] += 1

    def _added(self, line: Row, place: str, size: Size) -> list[dict[str, Any]]:
        label, box = _text(line, "suggested"), _text(line, "suggested_box")
        if not label and not box:
            return []
        if not label or not box:
            missing = "suggested_box" if label else "suggested"
            raise DataError(
                f"{place}: an object to add needs {missing}; fill in the cell, or remove the line"
            )
        item = {name: _empty(value) for name, value in self.example.items()}
        item[_key(self.example, CATEGORY_NAMES)] = self._raw(label, place)
        self._place(item, _box(box, f"{place}: suggested_box"), size)
        self.counts["added"] += 1
        return [item]

    def _label(self, item: Mapping[str, Any]) -> str:
        return str(self.name_of(item.get(_key(item, CATEGORY_NAMES))))

    def _raw(self, label: str, place: str) -> Any:
        if label not in self.raw:
            raise DataError(
                f"{place}: no object of train has the label {label!r}; {nearest(label, self.raw)}"
            )
        return self.raw[label]

    def _form(self, item: Mapping[str, Any]) -> Convention:
        form: Convention = self.convention or item.get("form") or "xyxy"
        return form

    def _corners(self, item: Mapping[str, Any], size: Size) -> Sequence[float] | None:
        values = item.get(_key(item, BOX_NAMES)) or ()
        return to_corners(values, self._form(item), size) if is_numbers(values) else None

    def _place(self, item: dict[str, Any], corners: Sequence[float], size: Size) -> None:
        """Give an object a box, in the convention and the type of the numbers of its table."""
        if "form" in item and self.convention is None:
            item["form"] = item["form"] or self.example.get("form") or "xyxy"
        values: list[float] = from_corners(corners, self._form(item), size)
        if all(isinstance(each, int) for each in self.example[_key(self.example, BOX_NAMES)]):
            values = [round(value) for value in values]
        item[_key(self.example, BOX_NAMES)] = values
        if "area" in item:
            item["area"] = type(item["area"] or 0.0)(0)  # that of the box


def _key(item: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the key of an object that holds its box, or its category."""
    return next((name for name in names if item.get(name) is not None), names[0])


def _empty(value: Any) -> Any:
    """Return the value of a key of an object that is added, of the same type."""
    return value if value is None else type(value)()


def _text(line: Row, name: str) -> str:
    value = line.get(name)
    return "" if value is None else str(value).strip()


def _box(text: str, place: str) -> list[float]:
    parts = [part for part in re.split(r"[\s,;\[\]()]+", text) if part]
    if not is_numbers(parts):
        raise DataError(
            f"{place} is {text!r:.60}, not four numbers; write left, top, right and bottom in "
            "pixels, such as 12.0 30.5 80.0 99.0"
        )
    left, top, right, bottom = map(float, parts)
    if right <= left or bottom <= top:
        raise DataError(f"{place} is {text!r:.60}: right <= left or bottom <= top; correct it")
    return [left, top, right, bottom]


def _differ(first: Sequence[float], second: Sequence[float], size: Size) -> bool:
    """True if two boxes differ where they are inside the image, which a table may have cut."""
    limits = (size[1], size[0]) * 2
    pairs = zip(first, second, limits, strict=True)
    return any(abs(min(max(a, 0), limit) - min(max(b, 0), limit)) > SLACK for a, b, limit in pairs)
