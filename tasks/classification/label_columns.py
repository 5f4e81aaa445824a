"""Which column of a table is the text and which is the label: by its name, or by its values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import DataError, nearest

TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "body",
    "document",
    "review",
    "article",
    "message",
    "comment",
)
LABEL_NAMES = ("label", "labels", "class", "category", "target", "topic", "sentiment")


def find_column(
    wanted: str | None,
    role: str,
    columns: Mapping[str, Sequence[Any]],
    usual: Sequence[str],
    candidates: Sequence[str],
) -> tuple[str, str | None]:
    """The column for a role ("text", "label"), and why it was chosen if it was chosen here.

    It is the wanted one, else one with a usual name, else the only candidate. Raises DataError
    otherwise.
    """
    if wanted is not None:
        if wanted not in columns:
            hint = (
                nearest(wanted, columns) if columns else "nor any other that is not read as input"
            )
            raise DataError(f"task.{role}: there is no column {wanted!r}; {hint}")
        return wanted, None
    lowered = {name.lower(): name for name in columns}
    for name in usual:
        if name in lowered:
            return lowered[name], f"{role}: column {lowered[name]!r}, by its name"
    if len(candidates) == 1:
        return candidates[0], f"{role}: column {candidates[0]!r}, the only one that can be it"
    found = ", ".join(map(repr, candidates or columns)) or "none"
    raise DataError(
        f"task.{role}: no one column is clearly the {role} (there are: {found}); "
        f"set task.{role}=COLUMN"
    )


def prose_columns(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The columns whose first values read like texts: most hold several words."""
    found = []
    for name, values in columns.items():
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        if texts and sum(" " in text.strip() for text in texts) > len(texts) / 2:
            found.append(name)
    return found


def counts_rows(values: Sequence[Any]) -> bool:
    """Whether a column numbers its rows: integers, each one more than the one before."""
    try:
        numbers = [int(value) for value in values]
    except (TypeError, ValueError):
        return False
    return len(numbers) > 2 and all(b == a + 1 for a, b in itertools.pairwise(numbers))
