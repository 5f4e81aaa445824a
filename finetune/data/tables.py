"""One file -> one table: CSV, TSV, JSON lines, parquet and Arrow.

A cell of a CSV is text, always: "NA", "None" and 007 stay what the file says, and a label is not
guessed to be a number.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import Dataset

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.data.encodings import Decoder
from finetune.data.records import check_names, from_records, plain
from finetune.data.validation import Faults
from finetune.errors import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BY_SUFFIX = {ending: name for name, each in TABLES.items() for ending in each.endings}
# How much of a CSV one thread parses at once, in bytes.
_BLOCK = 1 << 26
_HEADER = 1 << 20
_EXCERPT = 120


def table_format(path: Path) -> str | None:
    """The format that a file's name tells, or None; .csv.gz and .jsonl.gz are known as well."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        name = _BY_SUFFIX.get(suffixes[-2]) if len(suffixes) > 1 else None
        return name if name and TABLES[name].compressed else None
    return _BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def read_table(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """The rows of one file, and notes on how they were read."""
    name = config.format if config.format in TABLES else table_format(path)
    if name is None:
        known = ", ".join(ending for each in TABLES.values() for ending in each.endings)
        raise DataError(
            f"{path}: the name does not tell the format; known endings: {known} (csv and jsonl also"
            f" with .gz), or write data.format={'|'.join(TABLES)}"
        )
    module, _, function = TABLES[name].reader.partition(":")
    rows, notes = getattr(import_module(module), function)(path, config, decoder)
    if not len(rows):
        raise DataError(f"{path}: has columns ({', '.join(rows.column_names)}) but no rows")
    return rows, notes


def read_csv(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """A table of text whose first line names the columns (RFC 4180)."""
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; its first line must name the columns")
    # Arrow would take a leading blank line for the header.
    body = text.lstrip("\r\n")
    skipped = text[: len(text) - len(body)].count("\n")
    is_tsv = config.format == "tsv" or (config.format == "auto" and table_format(path) == "tsv")
    delimiter, notes = _delimiter(path, body, "\t" if is_tsv else config.delimiter)
    names = [name.strip() for name in _first_record(path, body, delimiter)]
    check_names(names, str(path))
    # Arrow does not end the header where the file ends.
    content = (body if body.endswith(("\n", "\r")) else body + "\n").encode()
    table, ragged = _parse_csv(path, content, names, delimiter)
    faults = Faults(str(path))
    for line, found, row in _lines_of(content, ragged):
        faults.add(
            f"line {line + skipped}",
            f"{found} cells where the header has {len(names)}: {_excerpt(row)}",
        )
    notes += faults.settle(config.on_error, table.num_rows + len(ragged))
    _check_closed(path, table, body)
    return Dataset(table), notes


def _parse_csv(
    path: Path, content: bytes, names: Sequence[str], delimiter: str
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """The table, and what is ragged: (cells, text) of rows with too many or too few cells."""
    ragged: list[tuple[int, str]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        ragged.append((row.actual_columns, row.text))
        return "skip"

    try:
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            read_options=pa.csv.ReadOptions(
                column_names=names, skip_rows_after_names=1, block_size=_BLOCK
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        reason = str(error)
        if "straddling" in reason:
            reason = f'a row is longer than {_BLOCK} bytes; most often a quote (") is never closed'
        raise DataError(f"{path}: is not a CSV that can be read: {reason}") from error
    return table, ragged


def _lines_of(content: bytes, ragged: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """(line, cells, text) of ragged rows in the order of the file.

    Arrow parses blocks in parallel and does not say where it was, so each row's text is looked up.
    """
    found: list[tuple[int, int, str]] = []
    begin: dict[str, int] = {}
    for cells, row in ragged:
        at = content.find(b"\n" + row.encode(), begin.get(row, 0))
        begin[row] = at + 1
        found.append((content.count(b"\n", 0, at + 1) + 1, cells, row))
    return sorted(found)


def _check_closed(path: Path, table: pa.Table, text: str) -> None:
    """Raise DataError if a quote that is never closed has swallowed the end of the file."""
    last = table.column(table.num_columns - 1)[-1].as_py() if table.num_rows else ""
    if "\n" in last and not text.rstrip().endswith('"'):
        line = text.rstrip("\r\n").count("\n") + 1 - last.rstrip("\r\n").count("\n")
        raise DataError(
            f'{path}: line {line} opens a quote (") that is never closed; close it or take it'
            f" away: {_excerpt(last)}"
        )


def _delimiter(path: Path, text: str, given: str | None) -> tuple[str, list[str]]:
    """What stands between cells: as given, or what cuts the first line into most cells."""
    if given is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(given, given)
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
            raise DataError(
                f"data.delimiter: {given!r} is not one ASCII character; write ',' ';' '|' or tab"
            )
        return delimiter, []
    cells = {choice: len(_first_record(path, text, choice)) for choice in DELIMITERS}
    found = max(cells, key=lambda choice: cells[choice])  # the first of equals: the comma
    if found == ",":
        return found, []
    return found, [
        f"{path}: cells end at a {DELIMITERS[found]}, as in the first line (data.delimiter)"
    ]


def _first_record(path: Path, text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text[:_HEADER], newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(
            f"{path}: the first line, which must name the columns, cannot be read: {error}"
        ) from error


def read_jsonl(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """A JSON object on every line, or an array of objects."""
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; write one JSON object a line")
    faults = Faults(str(path))
    is_array = text.lstrip().startswith("[")
    items = _json_array(path, text) if is_array else _json_lines(text, faults)
    records = []
    for place, item in items:
        if isinstance(item, Mapping):
            records.append(item)
        else:
            faults.add(
                place, f'is {_excerpt(json.dumps(item))}, not an object like {{"text": ...}}'
            )
    notes = faults.settle(config.on_error, len(records) + len(faults.found))
    rows, said = from_records(records, str(path))
    return rows, notes + said


def _json_array(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        return [(f"item {number}", item) for number, item in enumerate(json.loads(text), start=1)]
    except ValueError as error:
        raise DataError(f"{path}: begins like a JSON array but is none: {error}") from error


def _json_lines(text: str, faults: Faults) -> list[tuple[str, Any]]:
    items = []
    # Not splitlines: it also cuts at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append((f"line {number}", json.loads(line)))
        except ValueError as error:
            faults.add(f"line {number}", f"is not JSON ({error}): {_excerpt(line)}")
    return items


def read_parquet(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """A parquet file, memory-mapped."""
    try:
        # ParquetFile and not read_table, which takes year=2024 in a folder's name for a column.
        table = pa.parquet.ParquetFile(path, memory_map=True).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a parquet file that can be read: {error}") from error
    return _dataset(path, table), []


def read_arrow(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """An IPC file or an IPC stream, memory-mapped."""
    try:
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not an Arrow file that can be read: {error}") from error
    return _dataset(path, table), []


def _dataset(path: Path, table: pa.Table) -> Dataset:
    check_names(table.column_names, str(path))
    metadata = table.schema.metadata
    columns = {
        name: table.column(name)
        for name in table.column_names
        if not name.startswith("__index_level_")
    }
    try:
        # The metadata hold what `datasets` knows of the columns: class names, images.
        return Dataset(pa.table(plain(columns)).replace_schema_metadata(metadata))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{path}: has a column of a type that cannot be used: {error}") from error


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + " ...")
