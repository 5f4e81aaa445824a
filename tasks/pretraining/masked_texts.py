"""Texts without labels: the rows of masked language modeling, and the pieces of long ones.

A row: {"text": "Ad sales boost Time Warner profit ..."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from finetune.errors import DataError
from finetune.task_parts.rows import Resolved, Rows
from finetune.task_parts.samples import Row
from tasks.cells.label_values import is_missing
from tasks.classification.label_columns import find_column
from tasks.pretraining.masked_text_config import MaskedLanguageModelingConfig
from tasks.pretraining.word_masking import number_words
from tasks.prompts.prompts import SHORTEST_DIVIDED, divide_text
from tasks.text.text_columns import choose_text

PIECE = "text_piece"
"""Key of a part: start and end of a piece, in characters of the row's text."""
_TEXTS_AT_ONCE = 1000


class UnlabeledTextRows(Rows):
    """Rows with a text, which may be in several columns; other columns are not read."""

    config: MaskedLanguageModelingConfig

    @property
    def inputs(self) -> list[str]:
        text = self.config.text or "text"
        return [text] if isinstance(text, str) else text

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        if self.config.text is not None:
            for name in self.inputs:
                find_column(name, "text", columns, (), ())
            return Resolved({}, [])
        text, _, note = choose_text(columns, ())
        return Resolved({"text": text}, [note] if note else [])

    def validate(self, row: Row) -> Iterator[str]:
        cells = {column: row.get(column) for column in self.inputs}
        known = {column: cell for column, cell in cells.items() if not is_missing(cell)}
        for column, cell in known.items():
            if not isinstance(cell, str):
                yield f"{column} is {cell!r}, not text"
        if not any(str(cell).strip() for cell in known.values()):
            yield f"{' and '.join(cells)} {'is' if len(cells) == 1 else 'are'} empty"

    def identity(self, row: Row) -> Any:
        return self.whole_text(row)

    def divide(self, row: Row, shares: Mapping[str, float]) -> dict[str, Row] | None:
        """Divide a long document at the ends of its paragraphs or lines."""
        column, *others = self.inputs
        if others or len(row[column]) < SHORTEST_DIVIDED:
            return None
        parts = divide_text(row[column], [1 - sum(shares.values()), *shares.values()])
        names = ("train", *shares)
        return {name: {**row, column: part} for name, part in zip(names, parts, strict=True)}

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        if not isinstance(value, str):
            raise DataError(
                f"{self.config.name}: {value!r:.80} is not a text; pass texts, or dicts with the "
                f"columns {', '.join(columns)}"
            )
        return {**dict.fromkeys(columns), columns[-1]: value}

    def whole_text(self, row: Row) -> str:
        """Return the text of a row, joined from its columns."""
        cells = (row.get(column) for column in self.inputs)
        return self.config.join.join(str(cell) for cell in cells if not is_missing(cell))

    def text(self, row: Row) -> str:
        """Return the text of a row, or of the piece that it is."""
        whole = self.whole_text(row)
        if PIECE not in row:
            return whole
        start, stop = row[PIECE]
        return whole[start:stop]


def split_texts(tokenizer: Any, texts: Sequence[str], room: int) -> list[list[Row]]:
    """Return the pieces of each text, of at most `room` tokens, as parts; a short text has one, {}.

    A piece ends between words, unless a word alone is longer.
    """
    parts = list[list[Row]]()
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = list(texts[start : start + _TEXTS_AT_ONCE])
        encoded = tokenizer(some, add_special_tokens=False)
        for index, text in enumerate(some):
            words = number_words(encoded, text, index)
            if len(words) <= room:
                parts.append([{}])
                continue
            ends = [stop for _, stop in encoded[index].offsets]
            starts = _piece_starts(words, room)
            places = [0, *(ends[first - 1] for first in starts[1:]), len(text)]
            parts.append([{PIECE: piece} for piece in pairwise(places)])
    return parts


def _piece_starts(words: Sequence[int], room: int) -> list[int]:
    """Return the first token of each piece, of at most `room` tokens and whole words."""
    starts = [0]
    while len(words) - starts[-1] > room:
        begin, end = starts[-1], starts[-1] + room
        while end > begin and words[end] == words[end - 1]:
            end -= 1
        starts.append(end if end > begin else begin + room)
    return starts
