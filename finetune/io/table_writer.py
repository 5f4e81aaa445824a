"""Rows to a file, a window at a time: CSV, TSV, JSON lines, JSON or parquet, by the file's name.

Lists and dicts are JSON in the cells of a CSV. A file is written beside its place and renamed when
whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet

from finetune.config.formats import WRITTEN_TABLES
from finetune.errors import ConfigError, DataError, nearest
from finetune.io.files import atomic

Record = Mapping[str, Any]
Write = Callable[[Sequence[Record]], None]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def check_output(path: Path, source: Path | None = None) -> None:
    """Raise ConfigError if `path` tells no format, is a folder, or is the file that is read."""
    if path.suffix.lower() not in WRITTEN_TABLES:
        hint = nearest(path.suffix, WRITTEN_TABLES)
        raise ConfigError(f"-o {path}: the ending does not tell the format; {hint}")
    if path.is_dir():
        raise ConfigError(f"-o {path}: is a folder; name a file")
    if source is not None and path.exists() and path.samefile(source):
        raise ConfigError(f"-o {path}: is the file that is read; name another one")


@contextmanager
def open_writer(path: Path, types: Mapping[str, pa.DataType] | None = None) -> Iterator[Write]:
    """A function that writes rows to `path`, which is there whole at the end, or not at all.

    `types` of columns are for parquet, where the first rows may not tell them.
    """
    writer = _parquet_writer if path.suffix.lower() == ".parquet" else _text_writer
    with ExitStack() as place, ExitStack() as stack:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = place.enter_context(atomic(path))
            write = stack.enter_context(writer(beside, path.suffix.lower(), types or {}))

        def write_or_say(rows: Sequence[Record]) -> None:
            with naming(path):
                write(rows)

        yield write_or_say
        with naming(path):
            stack.close()  # which writes what was held back
            place.close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A fault of the disk becomes one that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}; name another file by -o") from error


def write_lines(file: TextIO, rows: Sequence[Record]) -> None:
    """JSON lines, seen by the reader of a pipe at once."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    file.flush()


@contextmanager
def _text_writer(path: Path, suffix: str, types: Mapping[str, pa.DataType]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            yield lambda rows: write_lines(file, rows)
        elif suffix == ".json":
            yield from _json_items(file)
        else:
            yield _csv_rows(file, _DELIMITERS[suffix])


def _json_items(file: TextIO) -> Iterator[Write]:
    """Writes the items of one array, and closes it."""
    opening = "[\n"

    def write(rows: Sequence[Record]) -> None:
        nonlocal opening
        for row in rows:
            file.write(opening + json.dumps(row, ensure_ascii=False, default=str))
            opening = ",\n"

    yield write
    file.write("\n]\n" if opening == ",\n" else "[]\n")


def _csv_rows(file: TextIO, delimiter: str) -> Write:
    table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    names: list[str] = []

    def write(rows: Sequence[Record]) -> None:
        if rows and not names:
            names.extend(rows[0])
            table.writerow(names)
        table.writerows([_cell(row[name]) for name in names] for row in rows)

    return write


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


@contextmanager
def _parquet_writer(path: Path, suffix: str, types: Mapping[str, pa.DataType]) -> Iterator[Write]:
    writer: pa.parquet.ParquetWriter | None = None

    def write(rows: Sequence[Record]) -> None:
        nonlocal writer
        if writer is None:
            found = pa.Table.from_pylist(list(rows)).schema
            schema = pa.schema(
                [(name, types.get(name, found.field(name).type)) for name in rows[0]]
            )
            writer = pa.parquet.ParquetWriter(path, schema)
        try:
            writer.write_table(pa.Table.from_pylist(list(rows), schema=writer.schema))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: a value does not fit its column ({error}); write .jsonl instead"
            ) from error

    try:
        yield write
        if writer is None:
            raise DataError(f"{path}: there are no rows to write")
    finally:
        if writer is not None:
            writer.close()
