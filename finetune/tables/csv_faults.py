"""Records of a CSV that are not rows: lines swallowed by a quote, headers, NUL characters.

A quote that is never closed turns all lines up to the next quote into one cell.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from finetune.errors import AmbiguityError, DataError
from finetune.tables.csv_columns import PLAIN_NUMBER, USUAL_NAMES
from finetune.tables.csv_records import Dialect, Record, count_newlines
from finetune.tables.faults import excerpt

_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_SAMPLE = 2000  # records
_MOST_DISTINCT = 0.3  # share of the records up to which a column has values that repeat
_TOTALS = {"total", "totals", "grand total", "sum", "average", "mean", "count", "summe", "gesamt"}
_TOTALS |= {"durchschnitt", "somme", "moyenne", "suma", "promedio", "totale", "media"}
_TOTALS |= {"\u0438\u0442\u043e\u0433\u043e", "\u5408\u8ba1", "\u603b\u8ba1"}
_ROUNDED = 0.0051  # by which a written sum or mean may differ
_QUALTRICS = '{"ImportId"'  # in the third line of its exports
_TYPES = "int integer int64 bigint smallint float float64 double real numeric decimal varchar"
_TYPES += " nvarchar char text string str object bool boolean date datetime timestamp"
_SECOND_LINE = frozenset({"response", "open-ended response", *_TYPES.split()})
"""Cells below the header in exports of SurveyMonkey and of databases."""
_NO_VALUE = {"na", "n/a", "#n/a", "nan", "none", "null", "-", "?", ".", "\\n", "unknown", "missing"}
_AMOUNT = re.compile(r"[-+$\u20ac\u00a3<>~]?\s?[\d.,]")  # a number, also with a unit
_ENOUGH = 10  # numbers of a column that make a text above them no value
_ALIKE = 0.95  # share of the values that must have the form of the column
_SEVERAL, _LONG = 3, 5  # lines that are enough, if columns have forms and if not
_MOST_LINES = 0.8  # share of the lines of a cell that must look like rows


class BadRecord(NamedTuple):
    """A record that is not a row, and why."""

    record: Record
    message: str
    rows: int = 1
    """Number of rows that it takes the place of: its lines, if they look like rows."""


def find_bad_records(
    path: Path,
    text: str,
    dialect: Dialect,
    names: Sequence[str],
    *,
    has_header: bool,
    trusts: bool,
    keeps: bool,
) -> Iterator[BadRecord]:
    """Yield the records of a CSV that are not rows.

    With `trusts`, quotes are taken as they are. Raises AmbiguityError for a quote that is still
    open at the end, since it is not known which rows are affected, unless `keeps`.
    """
    forms = RowForms.learn(text, dialect, len(names))
    for record in islice(dialect.records(text), int(has_header), None):
        raw = text[record.start : record.end]
        _check_order(path, record.line, raw, dialect, names)
        if record.is_open and not keeps:
            line = _opening_line(record, raw, dialect)
            raise AmbiguityError(f"{path}: line {line} {_left_open(raw, dialect)}")
        if record.is_open:
            yield BadRecord(record, _left_open(raw, dialect), _filled_lines(raw))
        elif record.lines > 1 and not trusts and forms.swallows_rows(raw):
            yield BadRecord(record, _swallowed(record, dialect), _filled_lines(raw))
        elif not trusts and dialect.has_loose_quote(raw):
            yield BadRecord(record, _loose(raw, dialect))
        elif "\0" in raw:
            yield BadRecord(record, f"holds a NUL character: {excerpt(raw.strip())}")
        elif reason := _header_fault(raw, dialect, names):
            yield BadRecord(record, reason)


def _filled_lines(raw: str) -> int:
    return sum(bool(line.strip()) for line in _LINE_END.split(raw))


def _header_fault(raw: str, dialect: Dialect, names: Sequence[str]) -> str:
    """Say that a record is a header; "" if not. A single word may be a row."""
    if len(names) == 1 or not any(names):
        return ""
    if not raw.strip("|-:= \t\r\n") and "-" * 2 in raw:
        return "is a line of dashes, as under the header of a Markdown table"
    cells = [cell.strip().casefold() for cell in dialect.cells(raw)]
    own = [name.casefold() for name in names]
    if cells == own:
        return "repeats the header"
    shared = any(cell == name for cell, name in zip(cells, own, strict=False))
    if shared and len(cells) == len(own) and USUAL_NAMES.issuperset({*cells} - {*own}):
        return f"looks like the header of another table: {excerpt(raw.strip())}"
    return ""


def check_second_header(path: Path, line: int, columns: Sequence[Sequence[str]]) -> None:
    """Raise AmbiguityError for a row of units, types or questions below the names in `line`.

    It has a text in a column of numbers, or the words that surveys and databases write there.
    `columns` are the first cells.
    """
    rows = list(zip(*columns, strict=True))
    for number, row in enumerate(rows[:2], start=1):
        filled = [cell.strip() for cell in row if cell.strip()]
        words = {re.sub(r"\(.*", "", cell).casefold() for cell in filled}
        is_known = any(cell.startswith(_QUALTRICS) for cell in filled)
        is_known |= number == 1 and len(filled) > 1 and words <= _SECOND_LINE
        if is_known or (number == 1 and _is_apart(row, rows[1:])):
            raise AmbiguityError(
                f"{path}: line {line} names the columns, and row {number} below it looks like a"
                f" second line of names, types or units: {excerpt(', '.join(row))}; remove it, or"
                " write data.columns=header if it is a row"
            )


def _is_apart(row: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """True if a row has texts or blanks in all columns of numbers, and at least one text."""
    cells = list[str]()
    for cell, column in zip(row, zip(*others, strict=True), strict=False):
        filled = [each.strip() for each in column if each.strip()]
        if len(filled) >= _ENOUGH and all(map(PLAIN_NUMBER.fullmatch, filled)):
            cells.append(cell.strip())
    texts = [cell for cell in cells if cell and cell.casefold() not in _NO_VALUE]
    return bool(texts) and not any(map(_AMOUNT.match, cells))


def find_total(text: str, dialect: Dialect, table: pa.Table) -> BadRecord | None:
    """Return the last record if it sums up a spreadsheet: Total beside the sum of a column."""
    if table.num_rows <= _SEVERAL:
        return None
    last = [cells[-1].as_py() for cells in table.columns]
    if _TOTALS.isdisjoint(cell.strip(" :").casefold() for cell in last):
        return None
    for cell, cells in zip(last, table.columns, strict=True):
        value, above = _to_number(cell), map(_to_number, cells[:-1].to_pylist())
        known = [number for number in above if number is not None]
        sums = [sum(known), sum(known) / max(len(known), 1), table.num_rows - 1, len(known)]
        if value is not None and any(abs(value - each) <= _ROUNDED for each in sums):
            record = deque(dialect.records(text), maxlen=1).pop()
            shown = excerpt(text[record.start : record.end].strip())
            return BadRecord(record, f"sums up the rows above, as spreadsheets do: {shown}")
    return None


def _to_number(cell: str) -> float | None:
    return float(cell.replace(",", ".")) if _NUMBER.fullmatch(cell) else None


def _check_order(path: Path, line: int, raw: str, dialect: Dialect, names: Sequence[str]) -> None:
    """Raise DataError for a header in another order: the columns of later rows are others."""
    own = [name.casefold() for name in names]
    if len(own) == 1 or not all(name in raw.casefold() for name in own):
        return
    cells = [cell.strip().casefold() for cell in dialect.cells(raw)]
    if cells != own and sorted(cells) == sorted(own):
        raise DataError(
            f"{path}: line {line} repeats the header in another order, so the lines below have"
            f" their columns in that order: {excerpt(raw.strip())}; make them a file of their own"
        )


def _swallowed(record: Record, dialect: Dialect) -> str:
    last = record.line + record.lines - 1
    return (
        f"opens a quote ({dialect.quote}) that the next one closes in line {last}, and the lines"
        " between look like rows of their own; close the quote, or write data.quote=none if quotes"
        " are characters like any other, data.quote=double if this is one cell"
    )


def _loose(raw: str, dialect: Dialect) -> str:
    escape = "data.quote=backslash if a backslash stands before quotes inside, "
    return (
        f"text follows a closing quote ({dialect.quote}): {excerpt(raw.strip())}; double the quotes"
        f" inside of a quoted cell, or write {escape * (chr(92) + dialect.quote in raw)}"
        "data.quote=none if quotes are characters like any other, data.quote=double to drop them"
    )


def _opening_line(record: Record, raw: str, dialect: Dialect) -> int:
    """Return the line that opens the quote: in a record of several lines, that of its last cell."""
    cell = dialect.cells(raw)[-1].rstrip("\r\n")
    return record.line + count_newlines(raw.rstrip("\r\n")) - count_newlines(cell)


def _left_open(raw: str, dialect: Dialect) -> str:
    lines = count_newlines(raw.rstrip("\r\n")) + 1
    count = f", and {lines} lines are in one cell" if lines > 1 else ""
    return (
        f"opens a quote ({dialect.quote}) that is never closed{count}; close or remove it, or write"
        " data.quote=none if quotes are characters like any other:"
        f" {excerpt(dialect.cells(raw)[-1].rstrip(chr(10)))}"
    )


@dataclass(frozen=True)
class RowForms:
    """The form of each column, by which a line is recognized as a row.

    A set of the values that repeat, "number", or None for any text.
    """

    dialect: Dialect
    forms: tuple[frozenset[str] | str | None, ...]

    @classmethod
    def learn(cls, text: str, dialect: Dialect, width: int) -> RowForms:
        """Learn the forms from records of one line; the header is too rare to matter."""
        rows: list[list[str]] = []
        for record in dialect.records(text):
            if record.lines == 1 and not record.is_open:
                cells = dialect.cells(text[record.start : record.end])
                if len(cells) == width:
                    rows.append(cells)
            if len(rows) == _SAMPLE:
                break
        columns = zip(*rows, strict=True) if rows else [()] * width
        return cls(dialect, tuple(map(_form, columns)))

    def swallows_rows(self, raw: str) -> bool:
        """True if the lines of a record look like rows of their own."""
        lines = _LINE_END.split(raw.rstrip("\r\n"))
        inner = [self._is_row(line) for line in lines[1:-1] if line.strip()]
        if len(inner) >= (_SEVERAL if any(self.forms) else _LONG):
            return sum(inner) >= _MOST_LINES * len(inner)
        if not any(self.forms) or not all(inner):
            return False
        return self._is_row(lines[0]) and (bool(inner) or self._is_row(lines[-1]))

    def _is_row(self, line: str) -> bool:
        """True if a line, with its quotes as characters, has the cells and the forms of a row."""
        cells = Dialect(self.dialect.delimiter, "").cells(line)
        if len(cells) != len(self.forms) or len(cells) == 1:
            return False
        quote = self.dialect.quote
        return all(
            form is None
            or (bool(_NUMBER.fullmatch(cell)) if form == "number" else cell.strip(quote) in form)
            for cell, form in zip(cells, self.forms, strict=True)
        )


def _form(values: Sequence[str]) -> frozenset[str] | str | None:
    filled = [value for value in values if value]
    if not filled:
        return None
    if sum(bool(_NUMBER.fullmatch(value)) for value in filled) >= _ALIKE * len(filled):
        return "number"
    distinct = frozenset(values)
    return distinct if len(distinct) <= max(2, _MOST_DISTINCT * len(values)) else None
