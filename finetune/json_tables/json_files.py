"""Reading of JSON: objects by line or one after the other, or one value that holds the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.errors import DataError, format_count, listed
from finetune.json_tables.json_lines import read_json_lines
from finetune.json_tables.json_shapes import Shape, find_shape, take_field
from finetune.json_tables.json_values import JsonParser, Placed
from finetune.tables.encodings import Decoder
from finetune.tables.faults import Faults, excerpt, keep_places, keeps_faults
from finetune.tables.records import from_records, holds_messages

_NAMED = 5
_MESSAGES = "messages"


def read_json_file(
    path: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    """Read the splits of a JSON file, whatever its ending; without splits, one called train."""
    lines, large_notes = read_json_lines(path, config, decoder)
    if lines is not None:
        return {"train": lines}, [*large_notes, *_object_notes(str(path), lines)]
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; write one JSON object per line")
    parser, faults = JsonParser(), Faults(str(path))
    shape = _find_rows(path, text, config, parser)
    columns = config.columns if isinstance(config.columns, list) else None
    tables: dict[str, list[Mapping[str, Any]]] = {}
    unreadable: dict[str, dict[int, str]] = {}
    for split, items in shape.splits.items():
        tables[split], unreadable[split] = [], {}
        for number, (place, item) in enumerate(items):
            row = None if isinstance(item, Unparsed) else _as_row(path, item, columns)
            if row is None or item == columns:
                reason = _fault(item, columns)
                faults.add(place, reason)
                unreadable[split][number] = f"{place}: {reason}"
            else:
                tables[split].append(row)
    total = sum(map(len, tables.values())) + len(faults.rows)
    notes = [*large_notes, *shape.notes, *faults.settle(config.on_error, total)]
    if parser.nans:
        notes.append(f"{path}: {parser.nans} NaN read as null, a missing value")
    splits = {}
    for split, rows in tables.items():
        place = str(path) if len(tables) == 1 else f"{path}: {split}"
        splits[split], type_notes = from_records(rows, place)
        notes += [*type_notes, *_object_notes(place, splits[split])]
        if unreadable[split] and keeps_faults(config.on_error):
            splits[split] = keep_places(splits[split], unreadable[split])
    return splits, notes


class Unparsed(NamedTuple):
    """A line that is not a JSON value."""

    message: str


def _find_rows(path: Path, text: str, config: DataConfig, parser: JsonParser) -> Shape:
    """Find the rows: by line if lines are JSON values, else in the whole text."""
    lines = [
        # Not splitlines, which also splits at U+2028; JSON strings may contain that character.
        Placed(f"line {number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if config.field is None and len(lines) > 1:
        items = list(_parse_until_fault(parser, lines))
        if len(items) == len(lines):
            return Shape({"train": items})
    parser.nans = 0
    try:
        items = list(parser.parse_sequence(text))
    except ValueError as error:
        return Shape({"train": _parse_lines(path, lines, parser, error)})
    if len(items) > 1:
        separators = ", separated by commas" if parser.commas else ""
        return Shape(
            {"train": items}, [f"{path}: {len(items)} JSON values one after the other{separators}"]
        )
    value = items[0].value
    if config.field is not None:
        value = take_field(value, config.field, str(path))
    return find_shape(value, str(path))


def _parse_until_fault(parser: JsonParser, lines: Sequence[Placed]) -> Iterator[Placed]:
    for place, line in lines:
        try:
            yield Placed(place, parser.parse(line))
        except ValueError:
            return


def _parse_lines(
    path: Path, lines: Sequence[Placed], parser: JsonParser, error: ValueError
) -> list[Placed]:
    """Parse each line; raise `error` if most lines are not JSON values."""
    parser.nans = unparsed = 0
    items = []
    for place, line in lines:
        try:
            items.append(Placed(place, parser.parse(line)))
        except ValueError as line_error:
            unparsed += 1
            message = f"invalid JSON ({line_error}): {excerpt(line)}"
            items.append(Placed(place, Unparsed(message)))
    if unparsed > len(lines) / 2 or len(lines) == 1:
        raise DataError(
            f"{path}: is neither valid JSON nor one JSON object per line: {error}"
        ) from error
    return items


def _as_row(path: Path, item: Any, columns: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return an object as a row, a list of cells as one with the names of data.columns.

    A list of messages without a name is a row with the column `messages`.
    """
    if isinstance(item, Mapping):
        if columns is not None:
            raise DataError(
                f"{path}: data.columns names the cells of rows without names, but the rows are"
                f" objects with the keys {listed(item, _NAMED)}; remove data.columns"
            )
        return item
    if isinstance(item, list) and columns is not None and len(item) == len(columns):
        return dict(zip(columns, item, strict=True))
    return {_MESSAGES: item} if columns is None and holds_messages(item) else None


def _fault(item: Any, columns: Sequence[str] | None) -> str:
    if isinstance(item, Unparsed):
        return item.message
    if columns is not None and item == columns:
        return "repeats the names of data.columns"
    return f"is {excerpt(json.dumps(item))}; {_expected(item, columns)}"


def _expected(item: Any, columns: Sequence[str] | None) -> str:
    if isinstance(item, list) and columns is not None:
        cells, names = format_count(len(item), "cell"), format_count(len(columns), "name")
        return f"{cells}, but data.columns has {names}"
    names = " or name the cells: data.columns=[text, label]" if isinstance(item, list) else ""
    return f'expected an object like {{"text": ...}}{names}'


def _object_notes(place: str, rows: Dataset) -> list[str]:
    """Note the columns that hold objects: their values are in no column of their own."""
    return [
        f"{place}: column {name!r} holds objects ({listed(feature, _NAMED)}); data.map can make"
        " columns of them"
        for name, feature in rows.features.items()
        if isinstance(feature, Mapping)
    ]
