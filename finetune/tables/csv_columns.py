"""Columns of a CSV: their names, a first line that is data, and decimal commas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finetune.config.formats import IMAGE_ENDINGS
from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError, format_count, listed
from finetune.tables.csv_records import Dialect, delimiter_name, find_dialect, guess_columns
from finetune.tables.faults import excerpt
from finetune.tables.records import check_names

SAMPLE = 200  # rows by which a header is checked

_NAMED = 5
_ALIKE = 0.9  # share of the cells that must be of the kind of their header
_FEW = 3  # numbers that may name columns in their order, such as pixels or years
_SENTENCE = 6  # words
_USUAL = (
    "text label labels id image file filename path title sentence class category target score"
    " sentiment review comment question answer prompt completion url date name message content"
    " premise hypothesis sentence1 sentence2 input output instruction response v1 v2"
)
USUAL_NAMES = frozenset(_USUAL.split())
PLAIN_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_COMMENTS = re.compile(r"(?:(?:[#%]|//)[^\r\n]*(?:\r\n|\n|\r))+")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?")
_ADDRESS = re.compile(r"https?://\S+|\S+@\S+\.\w+")
_PANDAS_NAME = re.compile(r"Unnamed: \d+(\.\d+)*")  # that of a column written without a name

_DECIMAL = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?([eE][+-]?\d+)?\s*$"
_THOUSANDS = r"^\s*[+-]?[1-9]\d{0,2},\d{3}\s*$"
# Columns in which 1,2 are two labels.
_LISTS = frozenset(
    {"labels", "tags", "classes", "categories", "topics", "genres", "annotations", "ids"}
)


def _is_image(cell: str) -> bool:
    return cell.lower().endswith(tuple(IMAGE_ENDINGS))


_KINDS: dict[str, Callable[[str], object]] = {
    "a number": PLAIN_NUMBER.fullmatch,
    "a date": _DATE.fullmatch,
    "an address": _ADDRESS.fullmatch,
    "an image file": _is_image,
}


def check_header(path: Path, line: int, names: Sequence[str], columns: Sequence[list[str]]) -> None:
    """Raise AmbiguityError if the first line looks like data. `columns` are the first cells."""
    rows = zip(*columns, strict=True)
    first = next((row for row in rows if any(cell.strip() for cell in row)), ())
    is_title = not all(names) and len(first) == len(names) and looks_like_header(first, columns)
    if is_title and all(first) and not looks_like_header(names, columns):
        raise AmbiguityError(
            f"{path}: line {line} is read as the names of the columns, but the first row looks like"
            f" their names: {excerpt(', '.join(first))}; remove what stands above it, or write"
            " data.columns=header if it is a row"
        )
    if looks_like_header(names, columns) or _are_positions(names):
        return
    for number, (name, cells) in enumerate(zip(names, columns, strict=True), start=1):
        reason = _likeness(name, [cell.strip() for cell in cells if cell.strip()])
        if name and reason:
            raise AmbiguityError(
                f"{path}: line {line} is read as the names of the columns, but looks like data:"
                f" {excerpt(name)} {reason} column {number}; if the file has no header, name its"
                f" columns, such as data.columns={guess_columns(names)}; if this line is the"
                " header, write data.columns=header"
            )


def names_columns(cells: Sequence[str]) -> bool:
    """True if one of the cells is a usual name of a column, such as comment_text."""
    return any(
        not USUAL_NAMES.isdisjoint(re.split("[_-]", cell.strip("#%/ ").lower())) for cell in cells
    )


def looks_like_header(cells: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """True if a cell is a usual name of a column, such as comment_text, and no value of its own."""
    return any(
        not USUAL_NAMES.isdisjoint(re.split("[_-]", cell.strip().lower()))
        and column.count(cell) <= 1
        for cell, column in zip(cells, columns, strict=True)
    )


def _are_positions(names: Sequence[str]) -> bool:
    """True if numbers name columns: all of them as pandas does, or several in a row."""
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names) and numbers[0] in (0, 1):
        return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    steps = {second - first for first, second in pairwise(numbers)}
    return len(numbers) >= _FEW and steps == {1}


def _likeness(name: str, cells: Sequence[str]) -> str:
    """Say in what a header is like the cells below it; "" if it is not."""
    if not cells:
        return ""
    if (count := cells.count(name)) > 1:
        return f"is also the value of {count} cells of"
    for kind, matches in _KINDS.items():
        if matches(name) and sum(bool(matches(cell)) for cell in cells) >= _ALIKE * len(cells):
            return f"is {kind}, like the cells of"
    words = sum(len(cell.split()) for cell in cells) / len(cells)
    is_question = name.endswith(("?", ":"))
    if len(name.split()) >= _SENTENCE and words >= _SENTENCE and not is_question:
        return "is a sentence, like the cells of"
    return ""


def header_fault(
    path: Path, line: int, names: Sequence[str], delimiter: str, widths: Sequence[int]
) -> DataError:
    """Return the error for a first line that has not as many cells as any other line.

    `widths` are the numbers of cells of the others.
    """
    most = Counter(widths).most_common(1)[0][0]
    return DataError(
        f"{path}: line {line} is read as the names of {format_count(len(names), 'column')} by"
        f" {delimiter_name(delimiter)} ({excerpt(delimiter.join(names))}), but none of the"
        f" {len(widths)} other lines has as many cells, most have {most}; if it is a title or a"
        " comment, remove it; if its delimiter is not that of the rows, replace it; if there is no"
        " header, name the columns: data.columns=[...]"
    )


def given_names(path: Path, columns: Sequence[str], cells: Sequence[str]) -> list[str]:
    """Return the names of data.columns. Raises DataError if they do not fit the first line."""
    names = [name.strip() for name in columns]
    check_names(names, "data.columns")
    if len(names) != len(cells):
        given = format_count(len(names), "name")
        raise DataError(
            f"{path}: data.columns has {given}, but the first line has {len(cells)}"
            f" cells: {excerpt(', '.join(cells))}; name all of them, such as"
            f" data.columns={guess_columns(cells)}"
        )
    return names


def check_no_header(path: Path, line: int, columns: Sequence[list[str]]) -> None:
    """Raise DataError if data.columns names the columns, but the first line does so too."""
    cells = [cells[0] for cells in columns if cells]
    if len(cells) == len(columns) and looks_like_header(cells, columns):
        raise DataError(
            f"{path}: data.columns names the columns of a table without a header, but line {line}"
            f" looks like one: {excerpt(', '.join(cells))}; remove data.columns, or that line"
        )


def split_comments(path: Path, body: str, config: DataConfig, is_tsv: bool) -> tuple[str, int]:
    """Return a text without the comments above its header, and their number.

    Raises AmbiguityError if the last of them may be the header, as in "# text,label".
    """
    match = _COMMENTS.match(body)
    rest = body[match.end() :].lstrip("\r\n") if match else ""
    if match is None or not rest:
        return body, 0
    lines = match[0].splitlines()
    dialect, _ = find_dialect(path, rest, config, is_tsv)
    last, below = dialect.cells(lines[-1]), dialect.cells(rest)
    if len(last) == len(below):
        if names_columns(last) or (len(last) == 1 and not names_columns(below)):
            return body[len(match[0]) - len(lines[-1]) - 1 :].lstrip("\r\n"), len(lines) - 1
        if not names_columns(below):
            raise AmbiguityError(
                f"{path}: {excerpt(lines[-1])} may be a comment or the names of the columns; remove"
                f" the line if {excerpt(', '.join(below))} are their names, else remove the"
                f" {lines[-1][0]!r} before it"
            )
    return rest, len(lines)


def complete_header(cells: Sequence[str], dialect: Dialect, body: str) -> list[str]:
    """Add a nameless column if all rows have one more cell than the header.

    R writes the numbers of rows without a header, and some tools end all rows with a delimiter. All
    other such rows are faults: a text with a comma that is not quoted has one more cell, too.
    """
    records = islice(dialect.records(body), 1, SAMPLE)
    rows = [dialect.cells(body[each.start : each.end]) for each in records]
    if not rows or any(len(row) != len(cells) + 1 for row in rows):
        return [*cells]
    if not any(row[-1] for row in rows):
        return [*cells, ""]
    numbers = [row[0].isdecimal() for row in rows]
    return ["", *cells] if all(numbers) and len({row[0] for row in rows}) == len(rows) else [*cells]


class Named(NamedTuple):
    """The positions and names of the columns to keep, and notes on the others."""

    positions: list[int]
    names: list[str]
    notes: list[str]


def name_columns(path: Path, names: Sequence[str], columns: Sequence[pa.ChunkedArray]) -> Named:
    """Drop the index of pandas and empty columns without a name; name other nameless columns."""
    kept = Named([], [], [])
    empty, indices, given = [], [], []
    for place, (name, cells) in enumerate(zip(names, columns, strict=True)):
        is_nameless = not name or bool(_PANDAS_NAME.fullmatch(name))
        if is_nameless and _is_empty(cells):
            empty.append(place + 1)
        elif is_nameless and not kept.names and _is_index(cells):
            indices.append(place + 1)
        else:
            if not name:
                name = _free_name(f"column_{place + 1}", names)
                given.append((name, place, cells))
            kept.positions.append(place)
            kept.names.append(name)
    if indices:
        kept.notes.append(
            f"{path}: {_columns(indices)} without a name counts the rows like the index of pandas,"
            " and is not read"
        )
    if empty:
        kept.notes.append(f"{path}: {_columns(empty)} without a name or a value not read")
    kept.notes.extend(
        f"{path}: column {place + 1} has no name and is called {name}; {_first_cell(cells)}"
        for name, place, cells in given
    )
    return kept


def _columns(places: Sequence[int]) -> str:
    return f"column{'s' if len(places) > 1 else ''} {listed(places, _NAMED)}"


def _free_name(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else _free_name(f"{name}_", taken)


def _first_cell(cells: pa.ChunkedArray) -> str:
    """Say how many cells hold text, and give the first."""
    filled = cells.filter(pc.not_equal(pc.utf8_trim_whitespace(cells), ""))
    return f"{len(filled)} of {len(cells)} cells are filled, such as {excerpt(filled[0].as_py())}"


def _is_empty(cells: pa.ChunkedArray) -> bool:
    return not pc.any(pc.not_equal(pc.utf8_trim_whitespace(cells), "")).as_py()


def _is_index(cells: pa.ChunkedArray) -> bool:
    """True for distinct integers without leading zeros."""
    integers = pc.all(pc.match_substring_regex(cells, r"^(0|[1-9][0-9]*)$")).as_py()
    return bool(integers) and pc.count_distinct(cells).as_py() == len(cells)


def convert_decimal_commas(
    path: Path, name: str, cells: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, list[str]]:
    """Write 0,5 as 0.5 if all cells of a column are such numbers, at least two; also return a note.

    A column of nothing but 1,234 and whole numbers stays as it is: it may mean thousands.
    """
    with_comma = pc.match_substring(cells, ",")
    if name.lower() in _LISTS or (pc.sum(with_comma).as_py() or 0) < 2:
        return cells, []
    is_blank = pc.equal(pc.utf8_trim_whitespace(cells), "")
    if not pc.all(pc.or_(is_blank, pc.match_substring_regex(cells, _DECIMAL))).as_py():
        return cells, []
    commas = cells.filter(with_comma)
    first = commas[0].as_py()
    if pc.all(pc.match_substring_regex(commas, _THOUSANDS)).as_py():
        return cells, [
            f"{path}: column {name!r} is read as text: the comma of {first!r} may separate decimals"
            " or thousands"
        ]
    converted = pc.replace_substring(pc.replace_substring(cells, ".", ""), ",", ".")
    shown = first.replace(".", "").replace(",", ".")
    return converted, [
        f"{path}: column {name!r} has decimal commas, read as numbers: {first!r} is {shown}"
    ]
