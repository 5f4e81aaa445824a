"""Conversion of Python objects (records, columns, DataFrames) to tables with typed columns."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint

from finetune.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd


# Errors that Arrow raises for values without a common type.
_TYPE_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)

_MOST_COLUMNS = 5000  # `datasets` takes a second per operation for some thousands


def from_records(records: Sequence[Mapping[str, Any]], place: str) -> tuple[Dataset, list[str]]:
    """Build a table of records; a missing key is None. Also return a note for each type choice."""
    names = dict.fromkeys(name for record in records for name in record)
    return from_columns({name: [record.get(name) for record in records] for name in names}, place)


def from_columns(columns: Mapping[str, Sequence[Any]], place: str) -> tuple[Dataset, list[str]]:
    """Build a table of columns. Also return a note for each column that was converted to text."""
    converted, notes = {}, []
    for name, values in columns.items():
        if is_mixed(values):
            notes.append(
                f"{place}: column {name!r} mixes types of values, so all of it is read as text"
            )
            values = as_text(values)
        elif _has_too_many_keys(values):
            notes.append(
                f"{place}: the objects in column {name!r} have more than {_MOST_COLUMNS} keys, so"
                " they are kept as JSON text"
            )
            values = as_text(values)
        converted[str(name)] = list(values)
    try:
        return _build(converted, place), notes
    except DataError:
        texts = {
            name: as_text(values)
            for name, values in converted.items()
            if any(map(holds_messages, values)) and _type_fault(values)
        }
        if not texts:
            raise
    notes += [
        f"{place}: the messages in column {name!r} have values of several types, so dialogues are "
        "kept as JSON text"
        for name in texts
    ]
    return _build(converted | texts, place), notes


def is_frame(value: Any) -> bool:
    """True if the value is a pandas DataFrame; pandas is not imported."""
    return hasattr(value, "iloc") and hasattr(value, "columns")


def from_frame(frame: pd.DataFrame, place: str) -> tuple[Dataset, list[str]]:
    """Build a table of a pandas DataFrame without its index. Also return notes on conversions."""
    names = [str(name) for name in frame.columns]
    check_names(names, place)
    notes = []
    arrays: dict[str, Any] = {}
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        if series.dtype == object:
            values = series.astype(object).where(series.notna(), None).tolist()
            column, column_notes = from_columns({name: values}, place)
            arrays[name] = column.data.column(name)
            notes += column_notes
        else:
            arrays[name] = pa.Array.from_pandas(series)
    return as_dataset(pa.table(decode_dictionaries(arrays))), notes


def check_column_count(names: Sequence[str], place: str) -> None:
    """Raise DataError if there are more columns than can be read in seconds."""
    if len(names) > _MOST_COLUMNS:
        raise DataError(
            f"{place}: has {len(names)} columns, more than {_MOST_COLUMNS}, such as "
            f"{listed(map(repr, names), 3)}; keep those that the task reads, or write the keys of "
            "each row as one column"
        )


def check_names(names: Sequence[str], place: str) -> None:
    """Raise DataError if column names are empty or not unique, or if there are none or too many."""
    if not names:
        raise DataError(f"{place}: has no columns")
    check_column_count(names, place)
    first: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            raise DataError(
                f"{place}: column {position} has no name; columns: {listed(map(repr, names), 20)}; "
                "name or remove it (if it is the index of pandas, write with to_csv(index=False))"
            )
        if "\0" in name:
            raise DataError(
                f"{place}: the name of column {position}, {name!r}, holds a NUL character"
            )
        if first.setdefault(name, position) < position:
            raise DataError(
                f"{place}: columns {first[name]} and {position} are both called {name!r};"
                " rename one of them"
            )


def as_dataset(table: pa.Table) -> Dataset:
    """Wrap a table, which stays mapped into memory if it is.

    By itself, the library would name a table by a hash of its contents, all pickled in memory.
    """
    return Dataset(table, fingerprint=generate_random_fingerprint())


def decode_dictionaries(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Decode dictionary-encoded columns, such as pandas categories."""
    return {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in columns.items()
    }


def is_mixed(values: Iterable[Any]) -> bool:
    """True if values of a column mix text, booleans and numbers; 1 and 2.5 are both numbers."""
    kinds = {_kind(value) for value in values if value is not None}
    return len(kinds) > 1 and "nested" not in kinds


def _has_too_many_keys(values: Iterable[Any]) -> bool:
    """True if objects have more keys than a table may have columns, at any depth, in all rows."""
    paths = set[tuple[str, ...]]()
    found: list[tuple[tuple[str, ...], Any]] = [
        ((), value) for value in values if isinstance(value, dict | list)
    ]
    while found and len(paths) <= _MOST_COLUMNS:
        path, value = found.pop()
        if isinstance(value, dict):
            inner = [((*path, str(key)), each) for key, each in value.items()]
            paths.update(name for name, _ in inner)
            found += [pair for pair in inner if isinstance(pair[1], dict | list)]
        else:
            found += [(path, each) for each in value if isinstance(each, dict | list)]
    return len(paths) > _MOST_COLUMNS


def as_text(values: Iterable[Any]) -> list[str | None]:
    """Convert every scalar to JSON; keep text and None unchanged."""
    return [
        value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        for value in values
    ]


def holds_messages(value: Any) -> bool:
    """True for a list of messages, whose contents, calls and tools may be of any type."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "nested"


def _build(columns: dict[str, list[Any]], place: str) -> Dataset:
    check_names(list(columns), place)
    try:
        return Dataset.from_dict(columns)
    except _TYPE_ERRORS as error:
        # Arrow does not name the column.
        for name, values in columns.items():
            if reason := _type_fault(values):
                number = bisect_left(
                    range(len(values)), True, key=lambda n: _type_fault(values[:n]) != ""
                )
                raise DataError(
                    f"{place}: the values of column {name!r} have no common type: row {number} "
                    f"differs, {values[number - 1]!r:.80} ({reason}); use one type for all values"
                ) from error
        raise DataError(f"{place}: {error}") from error


def _type_fault(values: list[Any]) -> str:
    """Return Arrow's message if it finds no common type for the values, else ""."""
    try:
        Dataset.from_dict({"values": values})
    except _TYPE_ERRORS as error:
        return str(error).splitlines()[0]
    return ""
