"""Dialects of CSV, and the records of a text with their lines.

Arrow parses whole tables; this scanner locates records and reads single ones, by the same rules.
Cells of the table that Arrow has read are checked for signs of another dialect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finetune.config.schema import SPOKEN_DELIMITERS, DataConfig
from finetune.errors import AmbiguityError
from finetune.tables.faults import excerpt

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_QUOTES = {"double": '"', "single": "'", "backslash": '"', "none": "", None: '"'}
_MOST_VALUES = 100_000
_PROSE = 2  # spaces from which a text is prose and not a label
_UNREAD_QUOTES = {
    r"^\s*'.*'\s*$": "write data.quote=single",
    "^\\s*[\u201c\u201d\u201e].*[\u201c\u201d]\\s*$": "replace them with straight quotes",
    r'^ +".*"\s*$': "remove the blanks between delimiter and quote",
    r'^="[^"]*"$': "remove the equals signs before them",
}
"""Forms of cells in quotes that are not read as such, and what to do."""
# Marks that no name of a column has, but tables with a delimiter of their own do.
_DIVIDERS = re.compile(r"[,;\t|]|[~^#]+|\s*:{2,}\s*|(?<=\w)[:/](?=\w)| {2,}")
_BLANK_LINE = re.compile(r"\n\r?\n|\r\r")
_EXCEL_LINE = re.compile(r'"?sep=(.)"?(\r\n|\r|\n)', re.IGNORECASE)

_MOST_NAMES, _FIRST_NAMES = 12, 3  # names of columns in a message


class Record(NamedTuple):
    """One record of a CSV: its first line from 1, its place in the text, and the lines it takes."""

    line: int
    start: int
    end: int
    lines: int
    is_open: bool
    """True if a quote is still open at the end of the text."""


@dataclass(frozen=True)
class Dialect:
    """Delimiter and quoting of a CSV; `quote` is "" for none, `escape` is "" or a backslash."""

    delimiter: str
    quote: str = '"'
    escape: str = ""

    @cached_property
    def _plain(self) -> str:
        return rf"[^{re.escape(self.delimiter)}\r\n]*+"

    @cached_property
    def _quoted(self) -> str:
        quote, escape = re.escape(self.quote), re.escape(self.escape)
        escaped = rf"|{escape}." if escape else ""
        return rf"{quote}(?:[^{quote}{escape}]++|{quote}{quote}{escaped})*+"

    @cached_property
    def _field(self) -> str:
        if not self.quote:
            return self._plain
        quote = re.escape(self.quote)
        return rf"(?:{self._quoted}(?:{quote}{self._plain}|(?P<open>\Z))|{self._plain})"

    def _repeated(self, field: str) -> re.Pattern[str]:
        rest = field.replace("?P<open>", "?P<open_later>")
        ends = r"(?:\r\n|\n|\r|\Z)"
        return re.compile(rf"{field}(?:{re.escape(self.delimiter)}{rest})*+{ends}", re.DOTALL)

    @cached_property
    def _record(self) -> re.Pattern[str]:
        return self._repeated(self._field)

    @cached_property
    def _well_quoted(self) -> re.Pattern[str]:
        quote = re.escape(self.quote)
        return self._repeated(rf"(?:{self._quoted}(?:{quote}[ ]*|\Z)|(?!{quote}){self._plain})")

    @cached_property
    def _quote_in_text(self) -> re.Pattern[str]:
        border = rf"[^{re.escape(self.quote)}{re.escape(self.delimiter)}\r\n]"
        return re.compile(rf"(?<={border}){re.escape(self.quote)}(?={border})")

    @cached_property
    def _cell(self) -> re.Pattern[str]:
        return re.compile(
            rf"(?P<cell>{self._field})(?P<end>{re.escape(self.delimiter)}|\r\n|\n|\r|\Z)",
            re.DOTALL,
        )

    def records(self, text: str) -> Iterator[Record]:
        """Yield the records of a text that are not blank."""
        at, line = 0, 1
        while at < len(text):
            match = self._record.match(text, at)
            assert match is not None, "every character fits a plain field, a delimiter or a line"
            is_open = any(group is not None for group in match.groups())
            end = max(match.end(), at + 1)
            lines = count_newlines(text[at:end])
            if text[at:end].strip("\r\n"):
                trailing = text[at:end].endswith(("\n", "\r")) and not is_open
                yield Record(line, at, end, lines + (0 if trailing else 1), is_open)
            at, line = end, line + lines

    def may_have_loose_quotes(self, text: str) -> bool:
        """False if no quote stands between other characters, as most texts have them."""
        return bool(self.quote) and self._quote_in_text.search(text) is not None

    def has_loose_quote(self, record: str) -> bool:
        """True if text follows a closing quote, as in "he said "hi" to me"."""
        return bool(self.quote) and self._well_quoted.fullmatch(record) is None

    def cells(self, record: str) -> list[str]:
        """Return the cells of the first record of a text."""
        cells, at = [], 0
        while match := self._cell.match(record, at):
            cells.append(self._unquoted(match["cell"]))
            at = match.end()
            if match["end"] != self.delimiter:
                break
        return cells

    def _unquoted(self, cell: str) -> str:
        if not self.quote or not cell.startswith(self.quote):
            return cell
        body, after = cell[1:], ""
        if (closing := body.rfind(self.quote)) >= 0:
            body, after = body[:closing], body[closing + 1 :]
        body = body.replace(self.quote * 2, self.quote)
        return (re.sub(r"\\(.)", r"\1", body, flags=re.DOTALL) if self.escape else body) + after


def delimiter_name(delimiter: str) -> str:
    """Name a delimiter in words."""
    return f"a {DELIMITERS[delimiter]}" if delimiter in DELIMITERS else repr(delimiter)


def count_newlines(text: str) -> int:
    """Count the line ends of a text: LF, CR LF, and CR alone."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def fill_blank_lines(text: str, dialect: Dialect) -> tuple[str, int]:
    """Write the blank lines between the rows of a single column as empty cells; count them."""
    parts, end, count = list[str](), 0, 0
    for record in dialect.records(text) if _BLANK_LINE.search(text) else ():
        blank = count_newlines(text[end : record.start])
        parts += [dialect.quote * 2 + "\n"] * blank + [text[record.start : record.end]]
        end, count = record.end, count + blank
    return ("".join(parts), count) if count else (text, 0)


def find_dialect(path: Path, text: str, config: DataConfig, is_tsv: bool) -> tuple[Dialect, str]:
    """Return the dialect of a text, and a note if its delimiter was detected.

    A configured delimiter, or the one that splits the first line into most cells.
    """
    escape = "\\" if config.quote == "backslash" else ""
    quote = _QUOTES[config.quote]
    configured = "\t" if is_tsv else config.delimiter
    if configured is not None:
        return Dialect(SPOKEN_DELIMITERS.get(configured, configured), quote, escape), ""
    choices = [Dialect(delimiter, quote, escape) for delimiter in DELIMITERS]
    # Ties are broken in favor of the comma.
    best = max(choices, key=lambda choice: len(choice.cells(text)))
    if best.delimiter == ",":
        return best, ""
    return best, (
        f"{path}: delimiter {DELIMITERS[best.delimiter]}, detected in the first line"
        " (data.delimiter)"
    )


def split_excel_line(text: str) -> tuple[str, str]:
    """Return the delimiter of a first line such as sep=; ("" without one), and the other lines."""
    match = _EXCEL_LINE.match(text)
    return (match[1], text[match.end() :]) if match else ("", text)


def guess_columns(cells: Sequence[str]) -> str:
    """Return a list of names to fill in for a row without a header, by the length of its cells."""
    longest = max(range(len(cells)), key=lambda place: len(cells[place]))
    others = iter(["label", *(f"column_{number}" for number in range(2, len(cells) + 1))])
    names = ["text" if place == longest else next(others) for place in range(len(cells))]
    if len(names) > _MOST_NAMES:
        names = [*names[:_FIRST_NAMES], "...", names[-1]]
        return f"[{', '.join(names)}], {len(cells)} names in all"
    return f"[{', '.join(names)}]"


def check_delimiters(path: Path, delimiter: str, columns: Sequence[pa.ChunkedArray]) -> None:
    """Raise AmbiguityError if some lines seem to have another delimiter than the header.

    They are recognized by cells of the last column that end with one of its recurring values, or of
    the first that begin with one, beside prose: "loved it;neg" where neg is a label.
    """
    for place in {0, len(columns) - 1} if len(columns) > 1 else ():
        counted = columns[place].value_counts().to_pylist()
        if len(counted) > _MOST_VALUES:
            continue
        recurring = {each["values"] for each in counted if each["counts"] > 1 and each["values"]}
        for other in DELIMITERS.keys() - {delimiter}:
            marked = [each["values"] for each in counted if other in each["values"]]
            pieces = Counter(piece.strip() for value in marked for piece in value.split(other))
            for value in marked:
                label, rest = value.rpartition(other)[::-2] if place else value.split(other, 1)
                is_prose = rest.count(" ") >= _PROSE and pieces[rest.strip()] <= 1
                if label.strip() in recurring and is_prose:
                    raise AmbiguityError(
                        f"{path}: the header is separated by {delimiter_name(delimiter)}, but some"
                        f" rows seem to be by {delimiter_name(other)}: {excerpt(value)} is read as"
                        " one cell; write all lines with one delimiter, or set"
                        f" data.delimiter={delimiter!r} if it is one"
                    )


def check_single_column(
    path: Path, names: Sequence[str], columns: Sequence[pa.ChunkedArray]
) -> None:
    """Raise AmbiguityError if the only column seems to be several with an unknown delimiter.

    Its name is divided as often as each of its cells: "text~label" above "loved it~pos".
    """
    marks = _DIVIDERS.findall(names[0]) if len(names) == 1 else []
    if not marks or len({*marks}) > 1 or not len(columns[0]):
        return
    mark, count = marks[0], pc.count_substring(columns[0], marks[0])
    is_quoted = mark in DELIMITERS  # only a line in quotes keeps them in one cell
    alike = pc.greater_equal(count, len(marks)) if is_quoted else pc.equal(count, len(marks))
    if not pc.all(alike).as_py():
        return
    remedy = f"write data.delimiter={mark!r} if it separates columns"
    if is_quoted:
        remedy = "remove the quotes around whole lines"
    elif len(mark) > 1:
        remedy = f"replace {mark!r} by a tab"
    raise AmbiguityError(
        f"{path}: has a single column, {names[0]!r}, but {mark!r} divides its name and all of its"
        f" cells: {excerpt(columns[0][0].as_py())}; {remedy}, or set data.delimiter=',' if it is"
        " one column"
    )


def check_quotes(path: Path, names: Sequence[str], columns: Sequence[pa.ChunkedArray]) -> None:
    """Raise AmbiguityError for a column whose cells are all in quotes that are not read as such.

    Texts may all be quotations, so their name must be in the same quotes, unless a blank or an
    equals sign is before them.
    """
    for name, cells in zip(names, columns, strict=True):
        filled = cells.filter(pc.not_equal(pc.utf8_trim_whitespace(cells), ""))
        for pattern, remedy in _UNREAD_QUOTES.items() if len(filled) else ():
            is_sure = pattern.startswith(("^=", "^ ")) or re.match(pattern, name)
            if is_sure and pc.all(pc.match_substring_regex(filled, pattern)).as_py():
                raise AmbiguityError(
                    f"{path}: all cells of column {name!r} are in quotes that are read as part of"
                    f" them, such as {excerpt(filled[0].as_py())}; {remedy}, or write"
                    " data.quote=double if the quotes belong to the cells"
                )
