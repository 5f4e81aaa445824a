"""Faults of many rows: gathered, then raised as one error, or counted where rows are left out."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from finetune.errors import DataError

OnError = Literal["stop", "skip", "clip"]

SHOWN = 20
# What differs between two faults of one kind: quoted values and numbers. An apostrophe is no quote.
_VALUES = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d+)?")


@dataclass
class Faults:
    """What is wrong with which rows of `subject`, a file or a split."""

    subject: str
    found: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, place: str, *whats: str) -> None:
        self.found.append((place, list(whats)))

    def settle(self, on_error: OnError, total: int) -> list[str]:
        """Raise DataError with the faults, or give a note with their count among `total` rows."""
        if not self.found:
            return []
        count = f"{self.subject}: {len(self.found)} of {total} rows"
        if on_error == "skip" and len(self.found) < total:
            return [f"{count} left out: {self._kinds()}"]
        lines = [f"  {place}: {'; '.join(whats)}" for place, whats in self.found[:SHOWN]]
        if len(self.found) > SHOWN:
            lines.append(f"  and {len(self.found) - SHOWN} more: {self._kinds()}")
        remedy = "mend the rows, or leave them out with data.on_error=skip"
        if len(self.found) >= total:
            remedy = "no row is left to use; mend the rows, or the keys that say how they are read"
        raise DataError("\n".join([f"{count} cannot be used:", *lines, remedy]))

    def _kinds(self) -> str:
        counts = Counter(_VALUES.sub("...", what) for _, whats in self.found for what in whats)
        return ", ".join(f"{what} ({count})" for what, count in counts.most_common(SHOWN))
