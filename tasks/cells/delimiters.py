"""Delimiters between labels of a cell: "drama|comedy", "a; b", "a, b", "haze primary".

A mark inside a text proves nothing: "Washington, D.C." is one label. It is a delimiter if the parts
recur in other combinations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

DELIMITERS = (";", "|", ",")
RARE_DELIMITERS = ("/", "#", "&", "+", "\n", "\t")
# Names of columns with several labels: evidence where the values leave a doubt.
PLURALS = frozenset(
    {"tags", "keywords", "genres", "categories", "topics", "attributes", "emotions"}
)
WORD_LISTS = frozenset({"tags", "keywords", "hashtags"})
"""Names of columns whose labels may be separated by blanks."""
RECURRING = 0.75  # share of parts that occur in other cells, of a comma that delimits
RECURRING_WORDS = 0.9  # likewise of a blank
_WORD = re.compile(r"\w")
_NUMBERS = re.compile(r"\d+(?: +\d+)*")
_DECIMALS = re.compile(r"-?\d+(?:,\d+)?")


class Delimiter(NamedTuple):
    """A mark that occurs in the cells of a column.

    Attributes:
        mark: the mark.
        verdict: several: it delimits labels; single: it is a part of labels; doubt: either.
        example: a cell with the mark.
    """

    mark: str
    verdict: Literal["several", "single", "doubt"]
    example: str


def find_delimiter(values: Iterable[Any]) -> str:
    """Detect the delimiter of a column of several labels: the first of ; | , that occurs."""
    seen = {
        mark for value in values if isinstance(value, str) for mark in DELIMITERS if mark in value
    }
    return next((mark for mark in DELIMITERS if mark in seen), DELIMITERS[0])


def judge_delimiters(values: Sequence[Any], column: str) -> Delimiter | None:
    """Judge the mark that most likely delimits labels in the texts of a column, if there is one."""
    cells = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if len(cells) < len([value for value in values if value is not None and value != ""]):
        return None
    judged = [each for mark in DELIMITERS if (each := _judge(mark, cells, column))]
    if not judged and (tags := _judge_blanks(cells, column)):
        return tags
    if not judged:
        judged = [each for mark in RARE_DELIMITERS if (each := _judge_rare(mark, cells))]
    order = ("several", "doubt", "single")
    return min(judged, key=lambda each: order.index(each.verdict), default=None)


def _judge(mark: str, cells: Sequence[str], column: str) -> Delimiter | None:
    marked = [cell for cell in cells if mark in cell]
    if not marked:
        return None
    share, is_free = _recurrence(mark, cells)
    is_plural, is_comma = column.lower() in PLURALS, mark == ","
    needed = (RECURRING / 2 if is_plural else RECURRING) if is_comma else 0.0
    verdict: Literal["several", "single", "doubt"] = "doubt"
    if is_comma and not is_plural and all(map(_DECIMALS.fullmatch, cells)):
        verdict = "doubt"  # "0,5" is also a number
    elif share >= needed and share and (is_free or is_plural or not is_comma):
        verdict = "several"
    elif not share and (is_comma or len(marked) > len(set(marked))):
        verdict = "single"
    return Delimiter(mark, verdict, marked[0])


def _judge_rare(mark: str, cells: Sequence[str]) -> Delimiter | None:
    """Judge a mark that rarely delimits: in doubt if nearly all parts of it recur freely."""
    marked = [cell for cell in cells if mark in cell]
    share, is_free = _recurrence(mark, cells) if marked else (0.0, False)
    return Delimiter(mark, "doubt", marked[0]) if is_free and share >= RECURRING / 2 else None


def _judge_blanks(cells: Sequence[str], column: str) -> Delimiter | None:
    """Judge blanks: they separate labels in a column that is called tags or keywords.

    In others they are in doubt if each word of a cell is a cell of its own, or all are numbers, or
    if the column is called categories, topics ... and its words recur.
    """
    marked = [cell for cell in cells if " " in cell]
    words = {word for cell in marked for word in cell.split()}
    if not marked or not all(map(_WORD.search, words)):
        return None
    share, is_free = _recurrence(" ", cells)
    if column.lower() not in WORD_LISTS:
        may_be = words <= set(cells) or all(map(_NUMBERS.fullmatch, cells))
        may_be |= column.lower() in PLURALS and is_free and share >= RECURRING
        return Delimiter(" ", "doubt", marked[0]) if may_be else None
    if len(set(marked)) < 2:
        return Delimiter(" ", "doubt", marked[0]) if share else None
    verdict: Literal["several", "single", "doubt"] = "doubt"
    if not share or share >= RECURRING_WORDS:
        verdict = "several" if share else "single"
    return Delimiter(" ", verdict, marked[0])


def _recurrence(mark: str, cells: Sequence[str]) -> tuple[float, bool]:
    """Return the share of parts of marked cells that occur in other cells too, and if they are
    free: a part stands alone elsewhere, or in another place.
    """
    distinct = [[part.strip() for part in cell.split(mark)] for cell in dict.fromkeys(cells)]
    occurrences = Counter(part for parts in distinct for part in set(parts) if part)
    joined = [[part for part in parts if part] for parts in distinct if len(parts) > 1]
    pieces = [part for parts in joined for part in parts]
    alone = {parts[0] for parts in distinct if len(parts) == 1}
    first, later = {parts[0] for parts in joined if parts}, {p for ps in joined for p in ps[1:]}
    share = sum(occurrences[part] > 1 for part in pieces) / max(len(pieces), 1)
    return share, bool(alone.intersection(pieces) or first & later)
