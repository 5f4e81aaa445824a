"""A function of the user that makes another row of each row, or drops it: data.map.

def headline(row: dict) -> dict | None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from finetune.data.records import from_records
from finetune.errors import DataError
from finetune.registry import find_object

RowFunction = Callable[[dict[str, Any]], Any]


def map_rows(
    role: str, rows: Dataset, reference: str, numbers: Sequence[int] | None
) -> tuple[Dataset, Sequence[int], list[str]]:
    """The rows that the function makes, their numbers in the file, and notes.

    Raises DataError with the number of a row that the function cannot take, or makes no row of.
    """
    function = find_object(reference, "data.map")
    if not callable(function):
        raise DataError(f"data.map: {reference} is {function!r:.80}, not a function of a row")
    made: list[dict[str, Any]] = []
    kept: list[int] = []
    for place in range(len(rows)):
        number = place + 1 if numbers is None else numbers[place]
        row = _apply(function, rows[place], f"{role} row {number}: data.map={reference}")
        if row is not None:
            made.append(row)
            kept.append(number)
    if not made:
        raise DataError(f"{role}: data.map={reference} dropped all {len(rows)} rows")
    table, notes = from_records(made, f"{role}: data.map={reference}")
    dropped = f", {len(rows) - len(made)} are dropped" if len(made) < len(rows) else ""
    return table, kept, [f"{role}: {len(made)} rows by {reference}{dropped}", *notes]


def _apply(function: RowFunction, row: dict[str, Any], place: str) -> dict[str, Any] | None:
    try:
        made = function(dict(row))
    except Exception as error:
        raise DataError(f"{place} fails: {type(error).__name__}: {error}") from error
    if made is None or (isinstance(made, dict) and made and all(isinstance(n, str) for n in made)):
        return made
    raise DataError(f"{place} gives {made!r:.80}; a row is a dict of columns, and None drops it")
