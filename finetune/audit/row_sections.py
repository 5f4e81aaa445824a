"""Sections about single rows: labels that are probably wrong, and rows that occur twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator

import numpy as np

from finetune.audit.evidence import Evidence
from finetune.audit.sections import Block, Link, Note, ReportSection, Table
from finetune.audit.shown_rows import text_of
from finetune.errors import ConfigError, format_count
from finetune.reports.label_ranking import rank_doubtful

MOST_LISTED = 50
FEWEST_ROWS = 20  # from which the ranking of labels means something
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
                text_of(row, evidence.task.rows.inputs)[:_TEXT],
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
    """List rows that occur twice in the split, or in train as well."""
    task_rows = evidence.task.rows
    places: dict[Hashable, list[int]] = defaultdict(list)
    labels = []
    for position, row in enumerate(evidence.rows(range(len(evidence)))):
        places[task_rows.identity(row)].append(position)
        labels.append(task_rows.labels(row))
    twice = [group for group in places.values() if len(group) > 1]
    blocks: list[Block] = []
    finding = ""
    if evidence.train is None:
        blocks.append(Note("The training rows are not at hand, so leaks were not looked for."))
    else:
        leaks = [
            (position, number, task_rows.labels(row))
            for number, row in zip(evidence.train_numbers, evidence.train, strict=True)
            for position in places.get(task_rows.identity(row), ())
        ]
        leaked = {position for position, _, _ in leaks}
        if leaked:
            finding = f"leakage: {format_count(len(leaked), 'row')} also occur in train"
        blocks.append(
            Note(f"{len(leaked)} of {format_count(len(evidence), 'row')} also occur in train.")
        )
        lines = [
            [
                Link(str(evidence.numbers[position]), {"row": evidence.numbers[position]}),
                number,
                ", ".join(labels[position]),
                ", ".join(known),
            ]
            for position, number, known in sorted(leaks)[:MOST_LISTED]
        ]
        if lines:
            note = f"The first {MOST_LISTED} of {len(leaks)} pairs." * (len(leaks) > MOST_LISTED)
            columns = ["row", "row of train", "label", "label in train"]
            blocks.append(Table("Rows of train", columns, lines, note))
    blocks.append(Note(f"{format_count(len(twice), 'group')} of equal rows in this split."))
    lines = [
        [
            Link(str(evidence.numbers[group[0]]), {"row": evidence.numbers[group[0]]}),
            ", ".join(str(evidence.numbers[position]) for position in group[1:]),
            " / ".join(dict.fromkeys(", ".join(labels[position]) for position in group)),
        ]
        for group in twice[:MOST_LISTED]
    ]
    if lines:
        blocks.append(Table("Equal rows", ["row", "equal to", "labels"], lines))
    yield ReportSection("duplicates", "Duplicates and leaks", blocks, finding)
