"""Records of a CSV that are not rows: lines swallowed by a quote, headers, NUL characters.

A quote that is never closed turns all lines up to the next quote into one cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from finetune.errors import AmbiguityError, DataError
from finetune.tables.csv_records import Dialect, Record, count_newlines
from finetune.tables.faults import excerpt

_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_SAMPLE = 2000  # records
_MOST_DISTINCT = 0.3  # share of the records up to which a column has values that repeat
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
    return ""


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
