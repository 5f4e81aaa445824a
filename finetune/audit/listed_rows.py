"""The rows that the page of a report lists and filters, as JSON."""

from __future__ import annotations

from typing import Any

from finetune.audit.evidence import Evidence, mistaken_labels
from finetune.audit.shown_rows import as_data_url, draw_thumbnails
from finetune.task_parts.samples import Row
from finetune.task_parts.views import Outcome

MOST_ROWS, MOST_PICTURES = 5_000, 1_000
"""Rows listed, and those with a picture; the worst ones. More would make the page slow to open."""
_TEXT_BYTES = 1_500_000  # of all rows, which sets how much of each is shown
_SHORTEST, _LONGEST = 60, 600  # characters
OUTCOME = "outcome"


def rows_of_page(evidence: Evidence) -> dict[str, Any]:
    """Return the columns of the rows, and the rows, those with the worst mistakes first.

    Unlisted columns are filtered by, and not shown.
    """
    positions = evidence.worst_first[:MOST_ROWS]
    length = min(_LONGEST, max(_SHORTEST, _TEXT_BYTES // max(len(positions), 1)))
    judged, pictures = evidence.scores is not None, MOST_PICTURES if evidence.has_pictures else 0
    rows, columns, unlisted = [], dict[str, Any](), list[str]()
    for place, (position, row) in enumerate(
        zip(positions, evidence.stream(positions), strict=True)
    ):
        outcome = evidence.outcomes[position] if evidence.outcomes else Outcome({}, 0.0)
        columns = {**outcome.columns, **mistaken_labels(outcome)}
        is_wrong = judged and outcome.mistake > 0
        columns |= {OUTCOME: "wrong" if is_wrong else "right"} if judged else {}
        columns, unlisted = {**columns, **outcome.unlisted}, list(outcome.unlisted)
        text = evidence.content(row)
        rows.append(
            {
                "row": int(evidence.numbers[position]),
                "values": [_plain(value) for value in columns.values()],
                "text": text if len(text) <= length else f"{text[:length]} ...",
                **({"wrong": True} if is_wrong else {}),
                **({"picture": _picture(evidence, row)} if place < pictures else {}),
            }
        )
    names = {"columns": list(columns), "unlisted": unlisted}
    return {**names, "rows": rows, "pictures": bool(pictures)}


def _picture(evidence: Evidence, row: Row) -> str:
    return as_data_url(draw_thumbnails(evidence.task, [row])[0])


def _plain(value: Any) -> Any:
    """Return a value of an outcome as a number, a text, or a list of these."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return round(value, 6)
