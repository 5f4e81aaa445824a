"""Writing of rows to CSV, TSV, JSON Lines, JSON or Parquet, in chunks; the file ending decides.

In CSV and TSV, lists and dicts are written as JSON. Files are written atomically.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet

from finetune.config.formats import WRITTEN_TABLES
from finetune.errors import ConfigError, DataError, nearest
from finetune.io.files import atomic
from finetune.io.references import refuse_url

Record = Mapping[str, Any]
Write = Callable[[Sequence[Record]], None]

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")
"""First characters of a cell that a spreadsheet takes as a formula, also in full width."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def check_output(path: Path, source: Path | None = None) -> None:
    """Raise ConfigError if `path` has an unknown ending, is a folder, or is the input file."""
    refuse_url(path)
    if path.suffix.lower() not in WRITTEN_TABLES:
        hint = nearest(path.suffix, WRITTEN_TABLES)
        raise ConfigError(f"-o {path}: unknown file ending; {hint}")
    if path.is_dir():
        raise ConfigError(f"-o {path}: is a folder; name a file")
    if source is not None and path.exists() and path.samefile(source):
        raise ConfigError(f"-o {path}: is the input file; name another one")


@contextmanager
def open_writer(
    path: Path, types: Mapping[str, pa.DataType] | None = None, columns: Sequence[str] = ()
) -> Iterator[Write]:
    """Yield a function that appends rows to `path`; the file appears at the end, complete.

    `types` sets the types of Parquet columns that cannot be inferred from the first rows. `columns`
    are the header of a CSV file in which no row may follow.
    """
    writer = _parquet_writer if path.suffix.lower() == ".parquet" else _text_writer
    with ExitStack() as place, ExitStack() as stack:
        with name_file_in_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = place.enter_context(atomic(path))
            write = stack.enter_context(writer(partial, path.suffix.lower(), types or {}, columns))

        def write_rows(rows: Sequence[Record]) -> None:
            with name_file_in_errors(path):
                write(rows)

        yield write_rows
        with name_file_in_errors(path):
            stack.close()  # flushes buffered rows
            place.close()


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Convert an OSError to a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}; name another file with -o") from error


def prepare_folder(folder: Path) -> None:
    """Create the folder. Raises ConfigError if it cannot be one."""
    refuse_url(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"-o {folder}: cannot be a folder: {error.strerror or error}; name another one"
        ) from error


@contextmanager
def preparing_folder(folder: Path) -> Iterator[None]:
    """Create the folder now, and remove it again if it stays empty because something failed."""
    existed = folder.exists()
    prepare_folder(folder)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def write_lines(file: TextIO, rows: Sequence[Record]) -> None:
    """Write JSON Lines and flush, so that the reader of a pipe gets them at once."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    file.flush()


def quote_formulas(write: Write) -> Write:
    """Return a function that precedes cells which a spreadsheet would compute with a quote (').

    Numbers remain as they are, also those in text cells.
    """

    def write_quoted(rows: Sequence[Record]) -> None:
        write([{_quoted(name): _quoted(value) for name, value in row.items()} for row in rows])

    return write_quoted


def _quoted(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(FORMULAS) and not _NUMBER.match(value)
    return f"'{value}" if is_formula else value


@contextmanager
def _text_writer(
    path: Path, suffix: str, types: Mapping[str, pa.DataType], columns: Sequence[str]
) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            yield lambda rows: write_lines(file, rows)
        elif suffix == ".json":
            yield from _json_items(file)
        else:
            yield _csv_rows(file, _DELIMITERS[suffix], columns)


def _json_items(file: TextIO) -> Iterator[Write]:
    """Yield a function that writes the items of one array, and close the array at the end."""
    opening = "[\n"

    def write(rows: Sequence[Record]) -> None:
        nonlocal opening
        for row in rows:
            file.write(opening + json.dumps(row, ensure_ascii=False, default=str))
            opening = ",\n"

    yield write
    file.write("\n]\n" if opening == ",\n" else "[]\n")


def _csv_rows(file: TextIO, delimiter: str, columns: Sequence[str] = ()) -> Write:
    # csv.writer quotes only those line breaks that are in its own line terminator.
    lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
    table = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n")
    names = list(columns)
    if names:
        table.writerow(names)

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
def _parquet_writer(
    path: Path, suffix: str, types: Mapping[str, pa.DataType], columns: Sequence[str]
) -> Iterator[Write]:
    writer: pa.parquet.ParquetWriter | None = None

    def write(rows: Sequence[Record]) -> None:
        nonlocal writer
        if writer is None:
            inferred = pa.Table.from_pylist(list(rows)).schema
            schema = pa.schema(
                [(name, types.get(name, inferred.field(name).type)) for name in rows[0]]
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
            raise DataError(f"{path}: no rows to write")
    finally:
        if writer is not None:
            writer.close()
