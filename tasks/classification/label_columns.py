"""Detection of the text and label columns of a table, by name or by values."""

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
    configured: str | None,
    role: str,
    columns: Mapping[str, Sequence[Any]],
    usual_names: Sequence[str],
    candidates: Sequence[str],
) -> tuple[str, str | None]:
    """Return the column for a role ("text", "label"), and a note if it was detected.

    It is the `configured` column, else one with a usual name, else the only candidate. Otherwise
    raises DataError.
    """
    if configured is not None:
        if configured not in columns:
            hint = nearest(configured, columns) if columns else "all columns are read as input"
            raise DataError(f"task.{role}: there is no column {configured!r}; {hint}")
        return configured, None
    lowered = {name.lower(): name for name in columns}
    for name in usual_names:
        if name in lowered:
            return lowered[name], f"{role}: column {lowered[name]!r}, by its name"
    if len(candidates) == 1:
        return candidates[0], f"{role}: column {candidates[0]!r}, the only candidate"
    choices = ", ".join(map(repr, candidates or columns)) or "none"
    raise DataError(
        f"task.{role}: cannot tell which column is the {role} (candidates: {choices}); "
        f"set task.{role}=COLUMN"
    )


def prose_columns(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns whose first values look like prose: most have several words."""
    prose = []
    for name, values in columns.items():
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        if texts and sum(" " in text.strip() for text in texts) > len(texts) / 2:
            prose.append(name)
    return prose


def counts_rows(values: Sequence[Any]) -> bool:
    """True if a column numbers the rows: consecutive integers."""
    try:
        numbers = [int(value) for value in values]
    except (TypeError, ValueError):
        return False
    return len(numbers) > 2 and all(b == a + 1 for a, b in itertools.pairwise(numbers))
