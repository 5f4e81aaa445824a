"""Reading of CSV and TSV.

All cells are text: "NA", "None" and 007 are kept verbatim, and labels are not parsed as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.tables.csv_columns import (
    SAMPLE,
    USUAL_NAMES,
    check_header,
    check_no_header,
    complete_header,
    convert_decimal_commas,
    given_names,
    header_fault,
    name_columns,
    split_comments,
)
from finetune.tables.csv_faults import (
    BadRecord,
    check_second_header,
    find_bad_records,
    find_total,
)
from finetune.tables.csv_records import (
    Dialect,
    check_delimiters,
    check_quotes,
    check_single_column,
    count_newlines,
    fill_blank_lines,
    find_dialect,
    split_excel_line,
)
from finetune.tables.encodings import Decoder
from finetune.tables.faults import Faults, excerpt, keep_places, keeps_faults
from finetune.tables.records import as_dataset, check_column_count, check_names

_BLOCK = 1 << 26  # bytes of a CSV that one thread parses at once


@dataclass(frozen=True)
class _Csv:
    """The text of a CSV from its header on, and how to read it."""

    path: Path
    text: str
    dialect: Dialect
    names: list[str]
    has_header: bool
    line: int
    """The number of its first line in the file."""
    trusts_quotes: bool
    keeps: bool
    """True if records that are not rows keep their places."""


def read_csv(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a table of text (RFC 4180) whose columns are named by its first line or data.columns."""
    source, notes = _open(path, config, decoder)
    table, ragged = _parse(source)
    first = [table.column(place)[:SAMPLE].to_pylist() for place in range(table.num_columns)]
    if config.columns is None:
        if ragged and not table.num_rows:
            widths = [cells for cells, _ in ragged]
            raise header_fault(path, source.line, source.names, source.dialect.delimiter, widths)
        check_header(path, source.line, source.names, first)
        check_second_header(path, source.line, first)
    elif not source.has_header:
        check_no_header(path, source.line, first)
    bad = _find_bad(source, table, ragged)
    if total := find_total(source.text, source.dialect, table):
        bad = [*(each for each in bad if each.record != total.record), total]
    if bad:
        table, ragged = _parse(replace(source, text=_without(source.text, bad)))
    if config.quote is None:
        check_quotes(path, source.names, table.columns)
    if config.delimiter is None:
        check_single_column(path, source.names, table.columns)
        check_delimiters(path, source.dialect.delimiter, table.columns)
    found = _collect(source, bad, ragged)
    faults = Faults(str(path))
    for line, lines, message, _ in found:
        faults.add(f"line {line + source.line - 1}", message, lines=lines)
    notes += faults.settle(config.on_error, table.num_rows + len(ragged) + len(bad))
    rows, column_notes = _name(source, table)
    if found and source.keeps:
        rows = keep_places(rows, _places(source, found))
    return rows, notes + column_notes


def _open(path: Path, config: DataConfig, decoder: Decoder) -> tuple[_Csv, list[str]]:
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; its first line must name the columns")
    is_tsv = config.format == "tsv" or (config.format == "auto" and _is_tsv(path))
    notes = []
    delimiter, rest = split_excel_line(text.lstrip("\r\n"))
    if delimiter:
        config = config.model_copy(update={"delimiter": config.delimiter or delimiter})
        notes.append(f"{path}: the first line gives the delimiter {delimiter!r}")
    # Arrow would read a leading blank line as the header.
    body = rest.lstrip("\r\n")
    if config.columns is None:
        body, comments = split_comments(path, body, config, is_tsv)
        notes += [f"{path}: not read: comments above the header ({comments})"] * bool(comments)
    if not body:
        raise DataError(f"{path}: has no line that names the columns")
    first_line = 1 + count_newlines(text[: len(text) - len(body)])
    dialect, note = find_dialect(path, body, config, is_tsv)
    if next(dialect.records(body)).is_open:
        raise DataError(
            f"{path}: line {first_line} opens a quote ({dialect.quote}) that is never"
            f" closed; close or remove it, or write data.quote=none: {excerpt(body)}"
        )
    cells = [cell.strip() for cell in dialect.cells(body)]
    check_column_count(cells, str(path))
    if isinstance(config.columns, list):
        names = given_names(path, config.columns, cells)
    else:
        names = complete_header(cells, dialect, body)
    notes += [note] if note else []
    has_header = not isinstance(config.columns, list)
    trusts = config.quote is not None
    keeps = keeps_faults(config.on_error)
    if len(names) == 1 and dialect.quote:
        filled, blank = fill_blank_lines(body, dialect)
        body = filled if keeps else body
        notes += [f"{path}: not read: blank lines ({blank})"] if blank and not keeps else []
    return _Csv(path, body, dialect, names, has_header, first_line, trusts, keeps), notes


def _is_tsv(path: Path) -> bool:
    return any(suffix.lower() in (".tsv", ".tab") for suffix in path.suffixes[-2:])


def _parse(source: _Csv) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Parse the table; also return (cells, text) of each row with too many or too few cells.

    Its columns are called by their numbers: names may be empty or occur twice.
    """
    ragged: list[tuple[int, str]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        ragged.append((row.actual_columns, row.text))
        return "skip"

    numbers = [str(place) for place in range(len(source.names))]
    dialect = source.dialect
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(_content(source)),
            read_options=pa.csv.ReadOptions(
                column_names=numbers,
                skip_rows_after_names=int(source.has_header),
                block_size=_BLOCK,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                escape_char=dialect.escape or False,
                newlines_in_values=bool(dialect.quote),
                invalid_row_handler=note,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(numbers, pa.string()),
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
        raise DataError(f"{source.path}: cannot be read as CSV: {reason}") from error
    return table, ragged


def _content(source: _Csv) -> bytes:
    # Arrow does not accept a header without a newline.
    return (source.text if source.text.endswith(("\n", "\r")) else source.text + "\n").encode()


def _find_bad(source: _Csv, table: pa.Table, ragged: Sequence[tuple[int, str]]) -> list[BadRecord]:
    """Return the records that are not rows; the text is scanned only if there may be any."""
    is_suspicious = any(count_newlines(row.rstrip("\r\n")) for _, row in ragged) or any(
        pc.any(pc.match_substring_regex(cells, "[\n\r\\x00]")).as_py() for cells in table.columns
    )
    is_suspicious |= not source.trusts_quotes and source.dialect.may_have_loose_quotes(source.text)
    if not is_suspicious and not _has_headers(table, source.names):
        return []
    return list(
        find_bad_records(
            source.path,
            source.text,
            source.dialect,
            source.names,
            has_header=source.has_header,
            trusts=source.trusts_quotes,
            keeps=source.keeps,
        )
    )


def _has_headers(table: pa.Table, names: Sequence[str]) -> bool:
    """True if a row consists of names of the columns, in any case and order, or of dashes.

    Usual names of columns beside one of them count, too; one word of one column does not.
    """
    if len(names) == 1 or not any(names):
        return False
    known = pa.array({name.casefold() for name in names} | USUAL_NAMES, pa.string())
    are_names, are_dashes = pa.scalar(True), pa.scalar(True)
    for cells in table.columns:
        trimmed = pc.utf8_trim_whitespace(cells)
        are_names = pc.and_(are_names, pc.is_in(pc.utf8_lower(trimmed), known))
        are_dashes = pc.and_(are_dashes, pc.match_substring_regex(trimmed, "^[-:=]*$"))
        # Hardly any table goes on after its first column, and one may have thousands.
        if not pc.any(pc.or_(are_names, are_dashes)).as_py():
            return False
    return True


def _without(text: str, bad: Sequence[BadRecord]) -> str:
    starts = [0, *(each.record.end for each in bad)]
    ends = [*(each.record.start for each in bad), len(text)]
    return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))


class _Found(NamedTuple):
    """A fault: its first line in the text, the lines of its record, the rows it stands for."""

    line: int
    lines: int
    message: str
    rows: int


def _collect(
    source: _Csv, bad: Sequence[BadRecord], ragged: Sequence[tuple[int, str]]
) -> list[_Found]:
    """Collect the faults in the order of their lines."""
    found = [_Found(each.record.line, each.record.lines, each.message, each.rows) for each in bad]
    width = len(source.names)
    from_names = "the header has" if source.has_header else "data.columns has"
    found += [
        _Found(
            line,
            count_newlines(row.rstrip("\r\n")) + 1,
            f"{cells} cell{'s' * (cells != 1)}, but {from_names} {width}: {excerpt(row)}",
            1,
        )
        for line, cells, row in _lines_of(source, ragged)
    ]
    return sorted(found)


def _places(source: _Csv, found: Sequence[_Found]) -> dict[int, str]:
    """Return {position among the rows, from 0: what is wrong there}."""
    faults = {each.line: each for each in found}
    places: dict[int, str] = {}
    position = 0
    for record in islice(source.dialect.records(source.text), int(source.has_header), None):
        fault = faults.get(record.line)
        if fault is not None:
            reason = f"line {record.line + source.line - 1}: {fault.message}"
            places |= dict.fromkeys(range(position, position + fault.rows), reason)
        position += 1 if fault is None else fault.rows
    return places


def _lines_of(source: _Csv, ragged: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """Yield (line, cells, text) of ragged rows.

    Arrow parses blocks in parallel and reports no position, so the records are scanned for them.
    """
    wanted: dict[str, list[int]] = {}
    for cells, row in ragged:
        wanted.setdefault(row.strip("\r\n"), []).append(cells)
    for record in source.dialect.records(source.text) if wanted else ():
        row = source.text[record.start : record.end].strip("\r\n")
        if row in wanted:
            yield record.line, wanted[row].pop(), row
            if not wanted[row]:
                del wanted[row]
            if not wanted:
                return
    for row, counts in wanted.items():
        yield from ((1, cells, row) for cells in counts)


def _name(source: _Csv, table: pa.Table) -> tuple[Dataset, list[str]]:
    """Name the columns, leave out those without name and content, and convert decimal commas."""
    named = name_columns(source.path, source.names, table.columns)
    check_names(named.names, str(source.path))
    columns, notes = {}, list(named.notes)
    for place, name in zip(named.positions, named.names, strict=True):
        columns[name] = table.column(place)
        if source.dialect.delimiter != ",":
            columns[name], number_notes = convert_decimal_commas(source.path, name, columns[name])
            notes += number_notes
    return as_dataset(pa.table(columns)), notes
