"""Contents of a report: sections made of charts, tables, a confusion matrix and cards of rows.

They hold numbers and texts, never HTML: the template of the page escapes them and lays them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from finetune.task_parts.views import Explanation, Picture


@dataclass(frozen=True)
class Link:
    """A cell to click: it shows the rows whose columns have these values, {column: value}."""

    text: str
    where: Mapping[str, Any]


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart.

    Attributes:
        name: name of its PNG file, without ending.
        spec: without size and config, which the page sets.
        links: {field of the data: column of the rows}: a click on a mark shows the rows with its
            values.
    """

    kind: ClassVar[str] = "chart"
    name: str
    title: str
    spec: Mapping[str, Any]
    note: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of texts, numbers and links."""

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix [C, C], true classes in rows; a click on a cell shows its rows.

    The rows have the columns "true" and "predicted".
    """

    kind: ClassVar[str] = "matrix"
    name: str
    title: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]

    def share(self, row: int, column: int) -> float:
        """Return the share of the rows of a class that a cell has."""
        return self.counts[row][column] / max(sum(self.counts[row]), 1)


@dataclass(frozen=True)
class Card:
    """A row at length: its outcome and what the network looked at.

    Attributes:
        pictures: of the row, and of its explanation.
    """

    title: str
    facts: Mapping[str, str]
    text: str = ""
    pictures: Sequence[Picture] = ()
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Cards:
    """Rows side by side, each with its explanation."""

    kind: ClassVar[str] = "cards"
    name: str
    cards: Sequence[Card]


Block = Note | Chart | Table | Matrix | Cards


@dataclass(frozen=True)
class ReportSection:
    """A part of the page.

    Attributes:
        key: its anchor, a word.
        finding: one sentence for the head of the page; "" for none.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    finding: str = ""
