"""The rows with the worst mistakes, each with what the network's output came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune.audit.evidence import Evidence
from finetune.audit.sections import WORST, Block, Card, Cards, Note, ReportSection
from finetune.audit.shown_rows import draw_thumbnails
from finetune.errors import ConfigError
from finetune.inference.predictor import input_columns
from finetune.reporting.console import format_value
from finetune.task_parts.samples import Row
from finetune.task_parts.views import Explanation, Picture

SHOWN = 10  # rows; each is explained, which takes a backward pass or more
SIDE_OF_WORST = 256  # pixels
_TEXT = 1_200  # characters


def worst_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """Show the rows with the worst mistakes: as the task does, or if it has outcomes."""
    if own := [section for section in evidence.own_sections if section.key == WORST]:
        yield from own
        return
    if not evidence.outcomes:
        return
    worst = [n for n in evidence.worst_first[:SHOWN] if evidence.outcomes[n].mistake > 0]
    if not worst:
        yield ReportSection(WORST, "Worst errors", [Note("No row is wrong.")])
        return
    task = evidence.task
    rows = [input_columns(row, task) for row in evidence.rows(worst)]
    pictures = draw_thumbnails(task, evidence.rows(worst), SIDE_OF_WORST)
    explanations, blocks = _explain(evidence, worst, rows)
    cards = []
    for place, (position, row) in enumerate(zip(worst, rows, strict=True)):
        facts = {name: show_value(v) for name, v in evidence.outcomes[position].columns.items()}
        explanation = explanations[place] if place < len(explanations) else None
        shown = [Picture("", np.asarray(pictures[place]))] if pictures else []
        shown += explanation.pictures if explanation is not None else []
        text = "" if pictures else evidence.content(row)[:_TEXT]
        title = f"row {evidence.numbers[position]}"
        cards.append(Card(title, facts, text, shown, explanation))
    yield ReportSection(WORST, "Worst errors", [*blocks, Cards(WORST, cards)])


def show_value(value: Any) -> str:
    """Render a value of an outcome as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(show_value, value)) or "none"
    return format_value(value)


def _explain(
    evidence: Evidence, positions: Sequence[int], rows: Sequence[Row]
) -> tuple[Sequence[Explanation], list[Block]]:
    """Return explanations of rows, and notes."""
    model, outputs = evidence.measured.model, _explained(evidence, positions)
    try:
        return evidence.task.views.explain(model, rows, outputs), []
    except ConfigError as error:
        return [], [Note(str(error))]


def _explained(evidence: Evidence, positions: Sequence[int]) -> list[int]:
    """Return the index of the output that is most wrong in each row."""
    if evidence.scores is None:
        return [0] * len(positions)
    scores = evidence.scores.take(np.array(positions))
    if scores.exclusive:
        return [int(n) for n in scores.scores.argmax(1)]
    return [int(n) for n in np.abs(scores.scores - scores.truth).argmax(1)]
