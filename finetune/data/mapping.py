"""data.map: a user function that transforms or drops each row.

def headline(row: dict) -> dict | None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from finetune.errors import DataError, format_count
from finetune.registry import find_object
from finetune.tables.faults import UNREADABLE
from finetune.tables.records import from_records

RowFunction = Callable[[dict[str, Any]], Any]


def map_rows(
    role: str, rows: Dataset, reference: str, numbers: Sequence[int] | None
) -> tuple[Dataset, Sequence[int], list[str]]:
    """Apply the function to all rows; return the new rows, their numbers in the file, and notes.

    `numbers` are the numbers of `rows` in their file, from 1; None: consecutive. Raises DataError
    with the number of a row for which the function fails or returns something other than a row.
    """
    function = find_object(reference, "data.map")
    if not callable(function):
        raise DataError(f"data.map: {reference} is {function!r:.80}; name a function of one row")
    mapped: list[dict[str, Any]] = []
    kept: list[int] = []
    for place in range(len(rows)):
        number = place + 1 if numbers is None else numbers[place]
        row = rows[place]
        if (reason := row.pop(UNREADABLE, None)) is not None:
            row = {UNREADABLE: reason}
        else:
            row = _apply(function, row, f"{role} row {number}: data.map={reference}")
        if row is not None:
            mapped.append(row)
            kept.append(number)
    if not mapped:
        raise DataError(
            f"{role}: data.map={reference} dropped all {len(rows)} rows; return a dict to keep one"
        )
    table, notes = from_records(mapped, f"{role}: data.map={reference}")
    dropped = f", {len(rows) - len(mapped)} dropped" if len(mapped) < len(rows) else ""
    return (
        table,
        kept,
        [f"{role}: {format_count(len(mapped), 'row')} from {reference}{dropped}", *notes],
    )


def _apply(function: RowFunction, row: dict[str, Any], place: str) -> dict[str, Any] | None:
    try:
        result = function(dict(row))
    except Exception as error:
        raise DataError(f"{place} fails: {type(error).__name__}: {error}") from error
    if result is None:
        return None
    if isinstance(result, dict) and result and all(isinstance(name, str) for name in result):
        return result
    raise DataError(
        f"{place} returned {result!r:.80}; return a dict of columns, or None to drop the row"
    )
