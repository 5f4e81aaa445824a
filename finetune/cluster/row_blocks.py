"""Blocks of rows in Parquet files that all machines can read.

Parquet files are read where they lie, so that the command itself reads none of their rows. Every
other source is read once, as on one machine, and written to Parquet beside the output.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, concatenate_datasets

from finetune.cluster.cluster_config import PARQUET
from finetune.config.schema import DataConfig
from finetune.data.folders import split_of_file
from finetune.data.opening import FIRST_VALUES, open_numbered_rows
from finetune.data.source import Source
from finetune.inference.predictor import WINDOW
from finetune.io.files import remove_path, sha256_of
from finetune.io.references import is_pattern, locate
from finetune.listing.walking import list_visible
from finetune.tables.faults import PLACE, RowNumber
from finetune.tables.table_files import read_parquet_range

_NUMBER = "__number__"
# A lost process loses a block; a part file for each window would be too many files of many rows.
_MOST_WINDOWS = 64
_MANY_BLOCKS = 4096
ReadTable = Callable[[], tuple[Dataset, list[str], Sequence[int]]]


@dataclass(frozen=True)
class RowBlocks:
    """The rows of a command, divided into blocks of whole windows.

    Attributes:
        counts: number of rows in each file.
        config: keys to read the files with; None for files that this module has written.
        notes: on how the rows were read.
    """

    files: Sequence[Path]
    counts: Sequence[int]
    config: DataConfig | None
    notes: Sequence[str] = ()

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def size(self) -> int:
        """Rows of a block."""
        return WINDOW * min(_MOST_WINDOWS, -(-self.rows // (WINDOW * _MANY_BLOCKS)))

    def read(self, block: int) -> tuple[Dataset, Sequence[int]]:
        """Return the rows of a block, and their numbers in the source, from 1."""
        start = block * self.size
        return self.read_range(start, min(start + self.size, self.rows))

    def read_range(self, start: int, stop: int) -> tuple[Dataset, Sequence[int]]:
        """Return the rows from `start`, counted from 0, to before `stop`, and their numbers."""
        ends = list(accumulate(self.counts))
        parts, position = [], start
        while position < stop:
            index = bisect_right(ends, position)
            offset = position - (ends[index] - self.counts[index])
            count = min(stop, ends[index]) - position
            parts.append(read_parquet_range(self.files[index], offset, count))
            position += count
        rows = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if self.config is not None:
            rows = open_numbered_rows(rows, self.config)[0]
            return rows, range(start + 1, stop + 1)
        return _restore_numbers(rows)

    def head(self) -> Dataset:
        """Return the first rows, by which tasks and columns are chosen."""
        return self.read_range(0, min(FIRST_VALUES, self.rows))[0]

    def digest(self) -> str:
        """Return a digest of the rows: by their content if this module has written them."""
        facts: list[Any] = [self.counts]
        for path in self.files:
            status = path.stat()
            facts.append(
                sha256_of(path)
                if self.config is None
                else [str(path.absolute()), status.st_size, status.st_mtime_ns]
            )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_blocks(
    source: Source, folder: Path, read_table: ReadTable, *, direct: bool = True
) -> RowBlocks:
    """Return the rows of a source as blocks; what is not Parquet is written to `folder`.

    `read_table` reads the source. Without `direct`, Parquet files are read and written as well.
    Raises DataError.
    """
    counts = _parquet_files(source) if direct else {}
    if sum(counts.values()):
        return RowBlocks(list(counts), list(counts.values()), source.config)
    table, notes, numbers = read_table()
    return _write_blocks(table, numbers, folder, notes)


def _parquet_files(source: Source) -> dict[Path, int]:
    """Return the Parquet files of a source that need no other reading, and their numbers of rows.

    {} for other sources, and for files with a fault, which reading them will name.
    """
    keys = source.config.model_fields_set - {"on_error"}
    reference = source.reference
    if keys or source.split or not isinstance(reference, str) or is_pattern(reference):
        return {}
    path = locate(reference)
    if path is None:
        return {}
    files = [path] if path.is_file() else list_visible(path)
    if any(not each.is_file() or each.suffix.lower() != PARQUET for each in files):
        return {}
    if len({split_of_file(each, source.config) for each in files}) > 1:
        return {}
    try:
        schemas = [pa.parquet.read_schema(each) for each in files]
        if any(not each.equals(schemas[0]) for each in schemas):
            return {}
        return {each: pa.parquet.read_metadata(each).num_rows for each in files}
    except (pa.ArrowException, OSError):
        return {}


def _write_blocks(
    table: Dataset, numbers: Sequence[int], folder: Path, notes: Sequence[str]
) -> RowBlocks:
    """Write the rows and their numbers to files of a block each."""
    remove_path(folder)
    folder.mkdir(parents=True)
    total = RowBlocks([], [len(table)], None)
    arrow = table.with_format("arrow")
    files, counts = list[Path](), list[int]()
    for start in range(0, len(table), total.size):
        stop = min(start + total.size, len(table))
        each = [numbers[index] for index in range(start, stop)]
        places = [getattr(number, "place", None) for number in each]
        rows = arrow[start:stop]
        # The metadata has what `datasets` knows of the columns, such as images.
        rows = rows.replace_schema_metadata(table.features.arrow_schema.metadata)
        rows = rows.append_column(_NUMBER, pa.array(map(int, each), pa.int64()))
        rows = rows.append_column(PLACE, pa.array(places, pa.string()))
        files.append(folder / f"rows-{len(files):06d}{PARQUET}")
        counts.append(len(rows))
        pa.parquet.write_table(rows, files[-1])
    return RowBlocks(files, counts, None, notes)


def _restore_numbers(rows: Dataset) -> tuple[Dataset, Sequence[int]]:
    numbers = [
        number if place is None else RowNumber(number, place)
        for number, place in zip(rows[_NUMBER], rows[PLACE], strict=True)
    ]
    return rows.remove_columns([_NUMBER, PLACE]), numbers
