"""The invalid rows of a file or a split: raised as one error, or counted if they are skipped.

What a file holds in place of a row, such as a line with too many cells, may keep its place in the
table: as a row without values that has the reason in the column UNREADABLE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import pyarrow as pa
from datasets import Dataset, Value

from finetune.errors import DataError
from finetune.tables.records import as_dataset

OnError = Literal["stop", "skip", "clip", "keep"]
"""What happens to invalid rows; "keep", which no key sets: they keep their places in the table."""
UNREADABLE = "__unreadable__"
PLACE = "__place__"
HIDDEN = (UNREADABLE, PLACE)
"""Columns of tables between reading and the selection of their rows; tasks never see them."""

SHOWN = 20
_EXCERPT = 120  # characters
# Quoted values and numbers, masked to group similar faults. An apostrophe does not open a quote.
_VALUES = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d+)?")


@dataclass
class Faults:
    """The invalid rows of a file or a split, with the messages of each."""

    subject: str
    """The file or split."""
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    """(place, messages) of each invalid row."""
    lines: int = 0
    """Number of lines of the file that these rows take."""

    def add(self, place: str, *messages: str, lines: int = 1) -> None:
        self.rows.append((place, list(messages)))
        self.lines += lines

    def settle(self, on_error: OnError, total: int, repair: str = "") -> list[str]:
        """Raise DataError with the faults; under "skip", return a note with their count instead,
        under "keep" nothing.

        If all `total` rows are invalid, raise in any case. `repair` is the key that repairs all
        faults, if there is one.
        """
        if not self.rows:
            return []
        lines = f" ({self.lines} lines)" if self.lines > len(self.rows) else ""
        count = f"{self.subject}: {len(self.rows)} of {total} rows{lines}"
        if on_error in ("skip", "keep") and len(self.rows) < total:
            return [f"{count} skipped: {self.kinds()}"] if on_error == "skip" else []
        faults = [f"  {place}: {'; '.join(messages)}" for place, messages in self.rows[:SHOWN]]
        if len(self.rows) > SHOWN:
            faults.append(f"  and {len(self.rows) - SHOWN} more: {self.kinds()}")
        remedy = "correct the rows, or skip them with data.on_error=skip"
        if repair:
            remedy = f"{remedy.replace(', or ', ', ')}, or repair all of them with {repair}"
        elif len(self.rows) >= total:
            remedy = (
                "no valid row left; correct the rows, or the keys that control how they are read"
            )
        verb = "is" if len(self.rows) == 1 else "are"
        raise DataError("\n".join([f"{count} {verb} invalid:", *faults, remedy]))

    def count_kinds(self) -> Counter[str]:
        """Return {kind of a fault: how many}, to be added up with those of other rows."""
        return Counter(_kind_of(message) for _, messages in self.rows for message in messages)

    def kinds(self) -> str:
        """Return the kinds of the faults with their counts, most frequent first.

        A fault that occurs once is shown as it is.
        """
        messages = [message for _, messages in self.rows for message in messages]
        kinds = [_kind_of(message) for message in messages]
        shown = dict(zip(kinds, messages, strict=True))
        return ", ".join(
            f"{shown[kind] if count == 1 else kind} ({count})"
            for kind, count in Counter(kinds).most_common(SHOWN)
        )


def _kind_of(message: str) -> str:
    return _VALUES.sub("...", message)


def excerpt(text: str) -> str:
    """Render the beginning of a text."""
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + " ...")


def keeps_faults(on_error: OnError) -> bool:
    """True if invalid rows keep their places, which no value of data.on_error says."""
    return on_error == "keep"


def keep_places(rows: Dataset, reasons: Mapping[int, str]) -> Dataset:
    """Return the rows with a row without values at each position of `reasons`, from 0, and the
    column UNREADABLE: "line 3: 4 cells, but ...".
    """
    total = len(rows) + len(reasons)
    read = iter(range(len(rows)))
    places = [None if place in reasons else next(read) for place in range(total)]
    table = rows.with_format("arrow")[:] if rows.column_names else pa.table({})
    texts = pa.array([reasons.get(place) for place in range(total)], pa.string())
    return as_dataset(table.take(pa.array(places, pa.int64())).append_column(UNREADABLE, texts))


class RowNumber(int):
    """Number of a row in its table, from 1, and its place in the file that the row is from.

    As text "7 (b.csv row 2)".
    """

    place: str

    def __new__(cls, number: int, place: str) -> Self:
        made = super().__new__(cls, number)
        made.place = place
        return made

    def __str__(self) -> str:
        return f"{int(self)} ({self.place})"


def with_places(rows: Dataset, file: str) -> Dataset:
    """Return the rows of a file with the hidden columns, to be joined with those of others.

    Rows that name their own file need no place.
    """
    named = "file" in rows.column_names
    places = [None if named else f"{file} row {place + 1}" for place in range(len(rows))]
    columns = {UNREADABLE: [None] * len(rows), PLACE: places}
    for name, values in columns.items():
        if name not in rows.column_names:
            rows = rows.add_column(name, pa.array(values, pa.string()), feature=Value("string"))
    return rows


def take_places(rows: Dataset) -> tuple[Dataset, Sequence[int] | None]:
    """Return the rows without the column PLACE, and the numbers made of it; None without it."""
    if PLACE not in rows.column_names:
        return rows, None
    numbers = [
        number if place is None else RowNumber(number, place)
        for number, place in enumerate(rows[PLACE], start=1)
    ]
    return rows.remove_columns(PLACE), numbers


def drop_unreadable(rows: Dataset, subject: str) -> tuple[Dataset, Sequence[int] | None, list[str]]:
    """Return the rows that could be read, without hidden columns, their numbers from 1, and a note
    on the others.

    The numbers are None if they are consecutive and in one file. The note calls the table
    `subject`.
    """
    rows, numbers = take_places(rows)
    if UNREADABLE not in rows.column_names:
        return rows, numbers, []
    kept, faults = [], Faults(subject)
    for place, reason in enumerate(rows[UNREADABLE]):
        if reason is None:
            kept.append(place)
        else:
            faults.add(f"row {place + 1}", reason.partition(": ")[2])
    notes = faults.settle("skip", len(rows))
    readable = rows.remove_columns(UNREADABLE)
    if not notes:
        return readable, numbers, []
    given = numbers or range(1, len(rows) + 1)
    return readable.select(kept), [given[place] for place in kept], notes
