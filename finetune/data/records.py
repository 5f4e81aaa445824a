"""Python objects (JSON lines, a list of dicts, a DataFrame) -> a table with one type a column."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset

from finetune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


# What Arrow raises for values that do not fit one type.
_MISFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)


def from_records(records: Sequence[Mapping[str, Any]], place: str) -> tuple[Dataset, list[str]]:
    """A table of the records, where a missing key is None, and a note for each type settled."""
    names = dict.fromkeys(name for record in records for name in record)
    return from_columns({name: [record.get(name) for record in records] for name in names}, place)


def from_columns(columns: Mapping[str, Sequence[Any]], place: str) -> tuple[Dataset, list[str]]:
    """A table of the columns, and a note for each type settled."""
    settled, notes = {}, []
    for name, values in columns.items():
        if is_mixed(values):
            notes.append(
                f"{place}: column {name!r} mixes kinds of values, so all of it is read as text"
            )
            values = as_text(values)
        settled[str(name)] = list(values)
    return _build(settled, place), notes


def is_frame(value: Any) -> bool:
    """Whether it is a pandas DataFrame, asked without importing pandas."""
    return hasattr(value, "iloc") and hasattr(value, "columns")


def from_frame(frame: pd.DataFrame, place: str) -> tuple[Dataset, list[str]]:
    """A table of a pandas DataFrame without its index."""
    names = [str(name) for name in frame.columns]
    check_names(names, place)
    notes = []
    settled: dict[str, Any] = {}
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        if series.dtype == object:
            values = series.astype(object).where(series.notna(), None).tolist()
            column, said = from_columns({name: values}, place)
            settled[name] = column.data.column(name)
            notes += said
        else:
            settled[name] = pa.Array.from_pandas(series)
    return Dataset(pa.table(plain(settled))), notes


def check_names(names: Sequence[str], place: str) -> None:
    """Raise DataError if a column has no name, or the name of another."""
    if not names:
        raise DataError(f"{place}: has no columns")
    for position, name in enumerate(names, start=1):
        if not name:
            raise DataError(
                f"{place}: column {position} has no name; columns: {', '.join(map(repr, names))}; "
                "name it, or leave it out (pandas writes its index so, but for to_csv(index=False))"
            )
        if names.index(name) + 1 < position:
            raise DataError(
                f"{place}: columns {names.index(name) + 1} and {position} are both called {name!r};"
                " rename one"
            )


def plain(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns with dictionary-encoded values (pandas categories) written out."""
    return {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in columns.items()
    }


def is_mixed(values: Iterable[Any]) -> bool:
    """Whether text, truth values and numbers stand in one column; 1 and 2.5 are of one kind."""
    kinds = {_kind(value) for value in values if value is not None}
    return len(kinds) > 1 and "nested" not in kinds


def as_text(values: Iterable[Any]) -> list[str | None]:
    """Every scalar as JSON would write it, text as it is."""
    return [
        value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        for value in values
    ]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "nested"


def _build(columns: dict[str, list[Any]], place: str) -> Dataset:
    check_names(list(columns), place)
    try:
        return Dataset.from_dict(columns)
    except _MISFIT as error:
        # Arrow does not say which column it was.
        for name, values in columns.items():
            if reason := _misfit(values):
                number = bisect_left(
                    range(len(values)), True, key=lambda n: _misfit(values[:n]) != ""
                )
                raise DataError(
                    f"{place}: the values of column {name!r} have no common type: row {number} "
                    f"breaks it, {values[number - 1]!r:.80} ({reason}); write all values alike"
                ) from error
        raise DataError(f"{place}: {error}") from error


def _misfit(values: list[Any]) -> str:
    """Why Arrow finds no type for these values; nothing if it does."""
    try:
        Dataset.from_dict({"values": values})
    except _MISFIT as error:
        return str(error).splitlines()[0]
    return ""
