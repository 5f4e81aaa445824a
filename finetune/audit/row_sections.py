"""Sections about single rows: labels that are probably wrong, and rows that occur twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune.audit.evidence import Evidence
from finetune.audit.sections import Block, Link, Note, ReportSection, Table
from finetune.checks.before_training import too_many_to_compare
from finetune.checks.checked_rows import CheckedRows
from finetune.checks.duplicates import TRAIN, Duplicates, Repeat
from finetune.errors import ConfigError, format_count
from finetune.reports.label_ranking import rank_doubtful

MOST_LISTED = 50
FEWEST_ROWS = 20  # from which the ranking of labels means something
_SPLIT = "the split"
_TEXT = 160  # characters of a row in a table


def doubtful_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """List rows of the split whose given label is probably wrong, by the model's probabilities."""
    scores = evidence.scores
    if scores is None or len(scores.scores) < FEWEST_ROWS:
        return
    title = "Suspected label errors"
    try:
        ranked = rank_doubtful(scores)
    except ConfigError as error:
        yield ReportSection("labels", title, [Note(str(error))])
        return
    if not ranked:
        yield ReportSection("labels", title, [Note("No label is suspicious.")])
        return
    names, shown = np.array(scores.names, dtype=object), ranked[:MOST_LISTED]
    lines = []
    for position, row in zip(shown, evidence.rows(shown), strict=True):
        chances, truth = scores.scores[position], scores.truth[position]
        likely = chances == chances.max() if scores.exclusive else chances >= 0.5
        number = evidence.numbers[position]
        lines.append(
            [
                Link(str(number), {"row": number}),
                ", ".join(map(str, names[truth])),
                ", ".join(map(str, names[likely])),
                f"{np.where(truth, chances, 1 - chances).min():.4f}",
                evidence.content(row)[:_TEXT],
            ]
        )
    columns = ["row", "given", "suggested", "probability of the given", "content"]
    text = (
        "The model did not learn from these rows, and gives another label a high probability. "
        "Some are hard rows, some are wrong labels: look at them, best first."
    )
    count = f"{format_count(len(ranked), 'row')} of {len(evidence)}"
    note = f"The first {len(shown)} of {len(ranked)}." if len(shown) < len(ranked) else ""
    finding = f"{count} {'has' if len(ranked) == 1 else 'have'} a suspicious label"
    yield ReportSection("labels", title, [Note(text), Table("", columns, lines, note)], finding)


def repeated_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """List rows that repeat a row of train, or another one of the split."""
    task_rows = evidence.task.rows
    checked, blocks = [CheckedRows(_SPLIT, *evidence.whole_rows, task_rows)], list[Block]()
    if evidence.train is not None:
        checked[:0] = [CheckedRows(TRAIN, evidence.train, evidence.train_numbers, task_rows)]
    else:
        blocks.append(Note("The training rows are not at hand, so leaks were not looked for."))
    if too_many := too_many_to_compare(checked):
        blocks.append(Note(f"Equal rows only: there are {too_many}. finetune check compares all."))
    duplicates, finding = Duplicates(checked, near=not too_many), ""
    if evidence.train is not None:
        leaked = duplicates.leaked(_SPLIT)
        blocks.append(_list_repeats(duplicates, leaked, "also occur in train", evidence))
        if leaked:
            finding = f"leakage: {format_count(len(leaked), 'row')} also occur in train"
    repeated = duplicates.within(_SPLIT)
    blocks.append(_list_repeats(duplicates, repeated, "repeat another row of the split", evidence))
    yield ReportSection("duplicates", "Duplicates and leaks", blocks, finding)


def _list_repeats(
    duplicates: Duplicates, found: dict[int, Repeat], text: str, evidence: Evidence
) -> Block:
    title = f"{len(found)} of {format_count(len(evidence), 'row')} {text}"
    if not found:
        return Note(f"{title}.")
    lines = [_describe_repeat(duplicates, each) for each in list(found.values())[:MOST_LISTED]]
    note = f"The first {len(lines)} of {len(found)}." if len(lines) < len(found) else ""
    return Table(title, ["row", "repeats row", "similarity", "label", "label there"], lines, note)


def _describe_repeat(duplicates: Duplicates, repeat: Repeat) -> list[Any]:
    number = duplicates.numbers[repeat.second]
    labels = (", ".join(duplicates.labels[index]) for index in (repeat.second, repeat.first))
    similarity = "equal" if repeat.is_equal else f"{repeat.similarity:.3f}"
    link = Link(str(number), {"row": number})
    return [link, duplicates.numbers[repeat.first], similarity, *labels]
