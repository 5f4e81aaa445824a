"""The invalid rows of a file or a split: raised as one error, or counted if they are skipped."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from finetune.errors import DataError

OnError = Literal["stop", "skip", "clip"]

SHOWN = 20
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
        """Raise DataError with the faults; under "skip", return a note with their count instead.

        If all `total` rows are invalid, raise in any case. `repair` is the key that repairs all
        faults, if there is one.
        """
        if not self.rows:
            return []
        lines = f" ({self.lines} lines)" if self.lines > len(self.rows) else ""
        count = f"{self.subject}: {len(self.rows)} of {total} rows{lines}"
        if on_error == "skip" and len(self.rows) < total:
            return [f"{count} skipped: {self.kinds()}"]
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

    def kinds(self) -> str:
        """Return the kinds of the faults with their counts, most frequent first."""
        counts = Counter(
            _VALUES.sub("...", message) for _, messages in self.rows for message in messages
        )
        return ", ".join(f"{message} ({count})" for message, count in counts.most_common(SHOWN))
