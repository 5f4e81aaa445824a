"""Reading of one file into one table: CSV, TSV, JSON Lines, Parquet and Arrow.

All cells of a CSV are text: "NA", "None" and 007 are kept verbatim, and labels are not parsed as
numbers.
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
from finetune.data.records import check_names, decode_dictionaries, from_records
from finetune.data.validation import Faults
from finetune.errors import DataError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BY_SUFFIX = {ending: name for name, each in TABLES.items() for ending in each.endings}
_BLOCK = 1 << 26  # bytes of a CSV that one thread parses at once
_HEADER = 1 << 20  # characters in which the header must end
_EXCERPT = 120  # characters


def table_format(path: Path) -> str | None:
    """Return the format of a file by its ending, or None; .csv.gz and .jsonl.gz count as well."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        name = _BY_SUFFIX.get(suffixes[-2]) if len(suffixes) > 1 else None
        return name if name and TABLES[name].compressed else None
    return _BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def read_table(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read one file; return its rows and notes on how they were read.

    Raises DataError if the format is unknown or the file has no rows.
    """
    name = config.format if config.format in TABLES else table_format(path)
    if name is None:
        known = ", ".join(ending for each in TABLES.values() for ending in each.endings)
        compressed = ", ".join(name for name, each in TABLES.items() if each.compressed)
        raise DataError(
            f"{path}: unknown file ending; use one of {known} ({compressed} also with .gz), or"
            f" write data.format={'|'.join(TABLES)}"
        )
    module, _, function = TABLES[name].reader.partition(":")
    rows, notes = getattr(import_module(module), function)(path, config, decoder)
    if not len(rows):
        raise DataError(
            f"{path}: has columns ({', '.join(rows.column_names)}) but no rows; add rows"
        )
    return rows, notes


def read_csv(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a table of text whose first line names the columns (RFC 4180)."""
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; its first line must name the columns")
    # Arrow would read a leading blank line as the header.
    body = text.lstrip("\r\n")
    skipped = text[: len(text) - len(body)].count("\n")
    is_tsv = config.format == "tsv" or (config.format == "auto" and table_format(path) == "tsv")
    delimiter, notes = _delimiter(path, body, "\t" if is_tsv else config.delimiter)
    names = [name.strip() for name in _first_record(path, body, delimiter)]
    check_names(names, str(path))
    # Arrow does not accept a header without a newline.
    content = (body if body.endswith(("\n", "\r")) else body + "\n").encode()
    table, ragged = _parse_csv(path, content, names, delimiter)
    faults = Faults(str(path))
    for line, cells, row in _lines_of(content, ragged):
        faults.add(
            f"line {line + skipped}",
            f"{cells} cell{'s' * (cells != 1)}, but the header has {len(names)}: {_excerpt(row)}",
        )
    notes += faults.settle(config.on_error, table.num_rows + len(ragged))
    _check_closed(path, table, body)
    return Dataset(table), notes


def _parse_csv(
    path: Path, content: bytes, names: Sequence[str], delimiter: str
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Parse the table; also return (cells, text) of each row with too many or too few cells."""
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
            reason = (
                f'a row is longer than {_BLOCK} bytes; check for a quote (") that is not closed'
            )
        raise DataError(f"{path}: cannot be read as CSV: {reason}") from error
    return table, ragged


def _lines_of(content: bytes, ragged: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Return (line, cells, text) of ragged rows in the order of the file.

    Arrow parses blocks in parallel and reports no position, so each row's text is searched for.
    """
    lines: list[tuple[int, int, str]] = []
    begin: dict[str, int] = {}
    for cells, row in ragged:
        at = content.find(b"\n" + row.encode(), begin.get(row, 0))
        begin[row] = at + 1
        lines.append((content.count(b"\n", 0, at + 1) + 1, cells, row))
    return sorted(lines)


def _check_closed(path: Path, table: pa.Table, text: str) -> None:
    """Raise DataError if the last row contains the rest of the file because of an open quote."""
    last = table.column(table.num_columns - 1)[-1].as_py() if table.num_rows else ""
    if "\n" in last and not text.rstrip().endswith('"'):
        line = text.rstrip("\r\n").count("\n") + 1 - last.rstrip("\r\n").count("\n")
        raise DataError(
            f'{path}: line {line} opens a quote (") that is never closed; close or remove it:'
            f" {_excerpt(last)}"
        )


def _delimiter(path: Path, text: str, configured: str | None) -> tuple[str, list[str]]:
    """Return the configured delimiter, or the one that splits the first line into most cells."""
    if configured is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(configured, configured)
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
            raise DataError(
                f"data.delimiter: {configured!r} is not a single ASCII character; write ',' ';' '|'"
                " or tab"
            )
        return delimiter, []
    cells = {choice: len(_first_record(path, text, choice)) for choice in DELIMITERS}
    delimiter = max(cells, key=lambda choice: cells[choice])  # ties broken in favor of the comma
    if delimiter == ",":
        return delimiter, []
    return delimiter, [
        f"{path}: delimiter {DELIMITERS[delimiter]}, detected in the first line (data.delimiter)"
    ]


def _first_record(path: Path, text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text[:_HEADER], newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(
            f"{path}: the first line, which must name the columns, cannot be read: {error}"
        ) from error


def read_jsonl(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read one JSON object per line, or an array of objects."""
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; write one JSON object per line")
    faults = Faults(str(path))
    is_array = text.lstrip().startswith("[")
    items = _json_array(path, text) if is_array else _json_lines(text, faults)
    records = []
    for place, item in items:
        if isinstance(item, Mapping):
            records.append(item)
        else:
            faults.add(
                place, f'is {_excerpt(json.dumps(item))}; expected an object like {{"text": ...}}'
            )
    notes = faults.settle(config.on_error, len(records) + len(faults.rows))
    rows, type_notes = from_records(records, str(path))
    return rows, notes + type_notes


def _json_array(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        return [(f"item {number}", item) for number, item in enumerate(json.loads(text), start=1)]
    except ValueError as error:
        raise DataError(f"{path}: starts with [ but is not a valid JSON array: {error}") from error


def _json_lines(text: str, faults: Faults) -> list[tuple[str, Any]]:
    items = []
    # Not splitlines, which also splits at U+2028; JSON strings may contain that character.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append((f"line {number}", json.loads(line)))
        except ValueError as error:
            faults.add(f"line {number}", f"invalid JSON ({error}): {_excerpt(line)}")
    return items


def read_parquet(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a Parquet file, memory-mapped."""
    try:
        # Not read_table, which turns a folder name such as year=2024 into a column.
        table = pa.parquet.ParquetFile(path, memory_map=True).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    return _dataset(path, table), []


def read_arrow(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read an Arrow IPC file or stream, memory-mapped."""
    try:
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as an Arrow file: {error}") from error
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
        # `datasets` stores its column types, such as class names and images, in the metadata.
        return Dataset(pa.table(decode_dictionaries(columns)).replace_schema_metadata(metadata))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{path}: a column has an unsupported type: {error}") from error


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + " ...")
