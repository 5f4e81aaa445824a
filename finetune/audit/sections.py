"""Contents of a report: sections made of charts, tables, a confusion matrix and cards of rows.

They hold numbers and texts, never HTML: the template of the page escapes them and lays them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from finetune.task_parts.views import Explanation, Picture

CLASSES, WORST = "classes", "worst"
"""Keys of sections of a task that replace shared ones; see `Views.sections`."""


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
class ColorKey:
    """The colors of classes in pictures as of CSS, {name: "#rrggbb"}."""

    kind: ClassVar[str] = "legend"
    colors: Mapping[str, str]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix [C, C], true classes in rows; a click on a cell shows its rows.

    The rows have the columns "true" and "predicted".

    Attributes:
        unit: what is counted. If it is not rows, cells have shares of their class, and a click
            shows the rows in which one class is true and the other predicted.
    """

    kind: ClassVar[str] = "matrix"
    name: str
    title: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    unit: str = "rows"

    @property
    def cells(self) -> list[list[tuple[float, str]]]:
        """The share and the text of each cell."""
        places = range(len(self.names))
        return [[(self.share(a, b), self.text(a, b)) for b in places] for a in places]

    def text(self, row: int, column: int) -> str:
        """Return the text of a cell."""
        count, share = self.counts[row][column], self.share(row, column)
        if self.unit == "rows":
            return str(count)
        if 0 < share < 0.01 or 0.99 < share < 1:
            return "<1%" if share < 0.5 else ">99%"
        return f"{share:.0%}"

    def share(self, row: int, column: int) -> float:
        """Return the share of its true class that a cell has."""
        return self.counts[row][column] / max(sum(self.counts[row]), 1)


@dataclass(frozen=True)
class Card:
    """A row at length: its outcome and what the network looked at.

    Attributes:
        pictures: of the row, and of its explanation.
        texts: texts under each other, {their names: texts}.
    """

    title: str
    facts: Mapping[str, str]
    text: str = ""
    pictures: Sequence[Picture] = ()
    explanation: Explanation | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cards:
    """Rows side by side, each with its explanation."""

    kind: ClassVar[str] = "cards"
    name: str
    cards: Sequence[Card]


Block = Note | Chart | Table | ColorKey | Matrix | Cards


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
