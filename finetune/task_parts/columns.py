"""Columns of a table, read without making a dict of every row.

Only for tables whose cells are the same in Arrow as in rows: texts, numbers and truth values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

CELLS_AT_ONCE = 8192
CELL_BYTES_AT_ONCE = 2**24


def is_plain(rows: Any, names: Sequence[str]) -> bool:
    """True if `rows` is a Dataset that has these columns, all of plain cells."""
    if not names or not hasattr(rows, "with_format") or rows.format["type"] is not None:
        return False
    types = {field.name: field.type for field in rows.features.arrow_schema}
    return all(name in types and _is_plain_type(types[name]) for name in names)


def holds_text(rows: Any, names: Sequence[str]) -> bool:
    """True if `rows` is a Dataset that has these columns, all of texts."""
    if not is_plain(rows, names):
        return False
    types = {field.name: field.type for field in rows.features.arrow_schema}
    return all(pa.types.is_string(types[n]) or pa.types.is_large_string(types[n]) for n in names)


def window_size(rows: Any, names: Sequence[str]) -> int:
    """Return how many rows of a Dataset to read at once: thousands, or fewer if these are long."""
    total = max(sum(rows.data.column(name).nbytes for name in names), 1)
    return int(max(1, min(CELLS_AT_ONCE, CELL_BYTES_AT_ONCE * len(rows.data) // total)))


def column_windows(rows: Any, names: Sequence[str]) -> Iterator[list[pa.Array]]:
    """Yield these columns of a table that `is_plain`, `window_size` rows at a time."""
    distinct = list(dict.fromkeys(names))
    table, size = rows.select_columns(distinct).with_format("arrow"), window_size(rows, distinct)
    for start in range(0, len(rows), size):
        window = table[start : start + size]
        yield [window.column(name).combine_chunks() for name in names]


def cells_of(rows: Any, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the cells of these columns, row by row, of a table that `is_plain`."""
    for window in column_windows(rows, names):
        yield from zip(*(cells.to_pylist() for cells in window), strict=True)


def count_cells(rows: Any, name: str) -> dict[Any, int]:
    """Return {cell: rows} of a column that `is_plain`, in the order of their first row."""
    counts: dict[Any, int] = {}
    for (cells,) in column_windows(rows, [name]):
        found = pc.value_counts(cells)
        for cell, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True):
            counts[cell] = counts.get(cell, 0) + count
    return counts


def by_cell(rows: Any, name: str, function: Callable[[Any], Any]) -> Iterator[Any]:
    """Apply a function to each cell of a column that `is_plain`, once for equal ones."""
    known: dict[Any, Any] = {}
    for (cells,) in column_windows(rows, [name]):
        encoded = cells.dictionary_encode(null_encoding="encode")
        distinct = encoded.dictionary.to_pylist()
        for cell in distinct:
            if cell not in known:
                known[cell] = function(cell)
        results = [known[cell] for cell in distinct]
        yield from (results[index] for index in encoded.indices.to_pylist())


def _is_plain_type(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(
        is_text
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
    )
