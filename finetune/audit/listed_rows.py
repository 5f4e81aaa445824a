"""The rows that the page of a report lists and filters, as JSON."""

from __future__ import annotations

from typing import Any

from finetune.audit.evidence import Evidence
from finetune.audit.shown_rows import as_data_url, draw_thumbnails
from finetune.audit.worst_rows import show_value
from finetune.inference.predictor import input_columns
from finetune.task_parts import Outcome

MOST_ROWS, MOST_PICTURES = 5_000, 1_000
"""Rows listed, and those with a picture; the worst ones. More would make the page slow to open."""
_TEXT_BYTES = 1_500_000  # of all rows, which sets how much of each is shown
_SHORTEST, _LONGEST = 60, 600  # characters
OUTCOME = "outcome"


def rows_of_page(evidence: Evidence) -> dict[str, Any]:
    """Return the columns of the rows, and the rows, those with the worst mistakes first."""
    positions = evidence.worst_first[:MOST_ROWS]
    length = min(_LONGEST, max(_SHORTEST, _TEXT_BYTES // max(len(positions), 1)))
    table = evidence.rows(positions)
    thumbnails = draw_thumbnails(
        evidence.task, [input_columns(row, evidence.task) for row in table[:MOST_PICTURES]]
    )
    outcomes, judged = evidence.outcomes, bool(evidence.outcomes) and evidence.scores is not None
    rows = []
    for place, (position, row) in enumerate(zip(positions, table, strict=True)):
        outcome = outcomes[position] if outcomes else Outcome({}, 0.0)
        is_wrong = judged and outcome.mistake > 0
        values = [_plain(value) for value in outcome.columns.values()]
        values += ["wrong" if is_wrong else "right"] if judged else []
        text = evidence.content(row)
        listed: dict[str, Any] = {"row": int(evidence.numbers[position]), "values": values}
        listed["text"] = text if len(text) <= length else f"{text[:length]} ..."
        listed |= {"wrong": True} if is_wrong else {}
        listed |= {"picture": as_data_url(thumbnails[place])} if place < len(thumbnails) else {}
        rows.append(listed)
    columns = [*(outcomes[0].columns if outcomes else ()), *([OUTCOME] if judged else ())]
    return {"columns": columns, "rows": rows, "pictures": bool(thumbnails)}


def _plain(value: Any) -> Any:
    """Return a value of an outcome as a number or a text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return show_value(value)
    return round(value, 6)
