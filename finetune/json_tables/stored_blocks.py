"""Blocks of a table in a file without a name, mapped into memory, which the system takes back."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

_NUMBERS = {pa.int64(), pa.float64()}


class StoredBlocks:
    """Tables written one after the other, and read as one.

    The file vanishes from its folder at once, and from the disk when the last table that reads it
    is gone, however the process ends.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - a context of its own
        self._starts: list[int] = []
        self.schemas: list[pa.Schema] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()  # what is mapped stays

    def write(self, block: pa.Table) -> None:
        """Append a table. Raises OSError if the disk is full."""
        self._starts.append(self._file.tell())
        self.schemas.append(block.schema)
        with pa.ipc.new_stream(self._file, block.schema) as writer:
            writer.write_table(block)

    def read(self) -> list[pa.Table]:
        """Return the tables, mapped into memory."""
        self._file.flush()
        mapped = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        bounds = pairwise([*self._starts, mapped.size])
        parts = [mapped.slice(start, end - start) for start, end in bounds]
        return [pa.ipc.open_stream(part).read_all() for part in parts]


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema | None:
    """Return the schema that all blocks can be cast to without a change of meaning, or None.

    Its columns are in order of their first appearance. A column may lack values in some blocks, and
    hold whole numbers in some and others in the rest.
    """
    types: dict[str, list[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            types.setdefault(field.name, []).append(field.type)
    common = {name: _common_type(found) for name, found in types.items()}
    known = {name: kind for name, kind in common.items() if kind is not None}
    return pa.schema(known.items()) if len(known) == len(common) else None


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    found = {kind for kind in types if not pa.types.is_null(kind)}
    if found == _NUMBERS:
        return pa.float64()
    return pa.null() if not found else found.pop() if len(found) == 1 else None


def cast_block(block: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a block with all columns of the schema, those that it lacks without values."""
    columns = []
    for field in schema:
        if field.name in block.column_names:
            column = block.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(len(block), field.type)]))
    return pa.table(columns, schema=schema)
