"""Shapes in which one JSON value holds rows: an object of rows, of columns or of splits.

{"data": [{...}, {...}]}, {"train": [...], "test": [...]}, {"text": [...], "label": [...]}, and the
five orients of pandas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import AmbiguityError, DataError, format_count, listed, nearest
from finetune.json_tables.json_values import Placed
from finetune.listing.split_names import split_name

_NAMED = 5
_ROW_KEYS = (
    "data rows records items examples samples dataset instances entries documents results value"
    " values list questions reviews articles tweets posts"
)
_ROWS = frozenset(_ROW_KEYS.split())
"""Keys under which an object has its rows."""
_ENTRY_KEYS = (
    "messages conversations conversation dialog dialogue dialogs turns history chat prompt"
    " completion chosen rejected choices tools functions answers annotations objects entities spans"
    " tokens"
)
_ENTRIES = frozenset(_ENTRY_KEYS.split())
"""Keys of one row under which it has a list of objects."""
_FEWEST = 10  # objects alike under keys of any kind that are rows and not the parts of one row


@dataclass
class Shape:
    """The rows of a JSON value by split, and notes on how they were found."""

    splits: dict[str, list[Placed]]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of_rows(cls, rows: Sequence[Any], *notes: str) -> Shape:
        return cls({"train": number_items(rows)}, [note for note in notes if note])


def number_items(rows: Sequence[Any]) -> list[Placed]:
    """Give each item of a list its number."""
    return [Placed(f"item {number}", row) for number, row in enumerate(rows, start=1)]


def take_field(value: Any, path: str, place: str) -> Any:
    """Return what data.field names in a JSON value, such as data or result.items."""
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            keys = value if isinstance(value, Mapping) else ()
            raise DataError(f"{place}: data.field={path}: no key {key!r}; {nearest(key, keys)}")
        value = value[key]
    return value


def find_shape(value: Any, place: str) -> Shape:
    """Find the rows of the only value of a file. Raises AmbiguityError for several candidates."""
    if isinstance(value, list):
        return Shape.of_rows(value)
    if not isinstance(value, Mapping):
        return Shape({"train": [Placed("line 1", value)]})
    for find in (_splits, _pandas, _columns, _keyed_rows, _container):
        if shape := find(value, place):
            return shape
    return Shape({"train": [Placed("line 1", value)]})


def _splits(value: Mapping[str, Any], place: str) -> Shape | None:
    """{"train": [...], "test": [...]}, the rows of each as lists of cells or in any other shape."""
    named = {key: value[key] for key in value if split_name(key)}
    # Lists of cells may also be columns, unless one of them is called train.
    cells = [key for key in named if _is_list_of(named[key], list)]
    cells = cells if any(split_name(key) == "train" for key in cells) else []
    splits = {key: part for key, part in named.items() if key in cells or _holds_rows(part)}
    if not splits:
        return None
    shape = Shape({}, [_unread(value, splits, place)] if len(splits) < len(value) else [])
    for key, part in splits.items():
        inner = find_shape(part, f"{place}: {key}")
        shape.splits[key] = inner.splits["train"]
        shape.notes += inner.notes
    return shape


def _pandas(value: Mapping[str, Any], place: str) -> Shape | None:
    """The orients split and table of pandas: names and cells apart, rows beside their schema."""
    names: Any = value.get("columns")
    data: Any = value.get("data")
    if (
        isinstance(names, list)
        and isinstance(data, list)
        and _is_list_of(data, list)
        and value.keys() <= {*_SPLIT_KEYS}
    ):
        if any(len(cells) != len(names) for cells in data):
            raise DataError(f"{place}: its data have not as many cells as there are columns")
        rows = [dict(zip(map(str, names), cells, strict=True)) for cells in data]
        return Shape.of_rows(rows, f"{place}: read as pandas writes it (orient=split)")
    if value.keys() == {"schema", "data"} and _is_list_of(data, Mapping):
        index = {"index"} if isinstance(value["schema"], Mapping) else set()
        rows = [{key: row[key] for key in row if key not in index} for row in data]
        return Shape.of_rows(rows, f"{place}: read as pandas writes it (orient=table)")
    return None


_SPLIT_KEYS = ("columns", "index", "data")


def _columns(value: Mapping[str, Any], place: str) -> Shape | None:
    """{"text": [...], "label": [...]}, or the same with the rows under their numbers."""
    parts = list(value.values())
    columns = format_count(len(value), "column")
    if len(parts) > 1 and all(_is_scalars(part) for part in parts):
        lengths = {key: len(part) for key, part in value.items()}
        if len({*lengths.values()}) > 1:
            sizes = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
            raise DataError(f"{place}: one object whose columns have different lengths: {sizes}")
        rows = [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
        return Shape.of_rows(rows, f"{place}: read as an object of {columns}")
    if all(_is_numbered(part) for part in parts) and len({tuple(part) for part in parts}) == 1:
        rows = [{key: value[key][index] for key in value} for index in parts[0]]
        return Shape.of_rows(rows, f"{place}: read as an object of {columns}")
    return None


def _keyed_rows(value: Mapping[str, Any], place: str) -> Shape | None:
    """{"0": {...}, "1": {...}}: rows under their numbers, or under keys of any kind."""
    parts = list(value.values())
    if not _is_list_of(parts, Mapping) or len(parts) < 2:
        return None
    if all(key.isdecimal() for key in value):
        return Shape.of_rows(
            parts, f"{place}: read as an object of {format_count(len(parts), 'row')}"
        )
    alike = len({frozenset(part) for part in parts}) == 1
    if len(parts) < _FEWEST or not alike or "key" in parts[0]:
        return None
    rows = [{"key": key, **part} for key, part in value.items()]
    return Shape.of_rows(
        rows, f"{place}: read as an object of {len(rows)} rows, whose keys are the column 'key'"
    )


def _container(value: Mapping[str, Any], place: str) -> Shape | None:
    """{"version": "1.0", "data": [{...}, {...}]}: one list of rows, and facts about it."""
    lists = [key for key, part in value.items() if _is_list_of(part, Mapping)]
    likely = [key for key in lists if key.lower() in _ROWS]
    if all(key.lower() in _ENTRIES for key in lists):
        return _inner_container(value, place)
    chosen = likely if len(likely) == 1 else lists
    key = chosen[0]
    if len(chosen) > 1:
        raise AmbiguityError(
            f"{place}: one object with several lists of objects ({listed(chosen, _NAMED)}); choose"
            f" one with data.field={key}"
        )
    if likely or len(value) == 1:
        return Shape.of_rows(
            value[key],
            f"{place}: its rows are under {key!r} (data.field)",
            _unread(value, chosen, place),
        )
    if len(value[key]) < _FEWEST:
        return None  # one row
    raise AmbiguityError(
        f"{place}: one object with {format_count(len(value[key]), 'object')} under {key!r}; write"
        f" data.field={key} if these are the rows; if it is one row, put it into a list: [{{...}}]"
    )


def _inner_container(value: Mapping[str, Any], place: str) -> Shape | None:
    """{"data": {"train": [...]}}: a container in a container; None for one row."""
    inner = [key for key in value if key.lower() in _ROWS and isinstance(value[key], Mapping)]
    if len(inner) != 1 or not _holds_rows(value[inner[0]]):
        return None
    shape = find_shape(value[inner[0]], f"{place}: {inner[0]}")
    unread = _unread(value, inner, place)
    return Shape(shape.splits, [*shape.notes, *([unread] if unread else [])])


def _unread(value: Mapping[str, Any], read: Sequence[str] | Mapping[str, Any], place: str) -> str:
    others = [key for key in value if key not in read]
    return f"{place}: not read: {listed(others, _NAMED)}" if others else ""


def _holds_rows(part: Any) -> bool:
    """True for a list of objects, an object of columns, or an object around one of them."""
    if isinstance(part, Mapping):
        return bool(part) and (
            all(isinstance(each, Mapping) or _is_scalars(each) for each in part.values())
            or any(_is_list_of(each, Mapping) for each in part.values())
        )
    return _is_list_of(part, Mapping)


def _is_list_of(part: Any, kind: type) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(each, kind) for each in part)


def _is_scalars(part: Any) -> bool:
    """True for a list of texts, numbers or lists, but not of objects."""
    return isinstance(part, list) and bool(part) and not any(isinstance(e, Mapping) for e in part)


def _is_numbered(part: Any) -> bool:
    return isinstance(part, Mapping) and bool(part) and all(key.isdecimal() for key in part)
