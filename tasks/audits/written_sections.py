"""Sections on generated texts: lengths, repetition, texts that do not end, samples.

Shapes: N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.audit.charts import BLUE, diagonal_of, layered, records
from finetune.audit.sections import (
    Block,
    Card,
    Cards,
    Chart,
    Note,
    ReportSection,
    Table,
)
from finetune.errors import format_count
from finetune.reports.intervals import Estimate, mean_interval

ORDER = 4  # tokens of the n-grams of which repetitions are counted
REPEATS_MORE = 0.05  # share of repeated n-grams above that of the references that is a finding
SAMPLES = 12  # cards
_PROMPT, _TEXT = 240, 1_000  # characters of a sample
BEFORE, AFTER, REFERENCE = "before training", "after training", "reference"


class Written(NamedTuple):
    """A text: its token ids, and whether it ended by itself; None if that is unknown."""

    text: str
    ids: Sequence[int]
    is_ended: bool | None = None


class Answer(NamedTuple):
    """A row's prompt and what was written for it.

    Attributes:
        number: of the row.
        before: by the network before training; None if it was not asked.
    """

    number: int
    prompt: str
    reference: Written
    after: Written
    before: Written | None = None

    @property
    def texts(self) -> dict[str, Written]:
        texts = {} if self.before is None else {BEFORE: self.before}
        return {**texts, AFTER: self.after, REFERENCE: self.reference}


def repeated_share(ids: Sequence[int]) -> float:
    """Return the share of the n-grams of a text that occurred in it before; 0 if it has none."""
    grams = [tuple(ids[start : start + ORDER]) for start in range(len(ids) - ORDER + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def answer_section(
    answers: Sequence[Answer], most_tokens: int, notes: Sequence[str], *, ends: bool
) -> ReportSection:
    """Compare generated texts of at most `most_tokens` tokens with the references.

    `ends` is False for pieces of running text, which have no end to reach.
    """
    columns = list(answers[0].texts)
    measured = {
        name: [_measures(answers, column, ends=ends)[name] for column in columns]
        for name in _measures(answers, AFTER, ends=ends)
    }
    lines = [[name, *map(_cell, values)] for name, values in measured.items()]
    note = (
        f"On {format_count(len(answers), 'row')}, at most {most_tokens} tokens each, with 95 % "
        "bootstrap intervals. A reference does not end if it is longer than that."
    )
    if not ends:
        note = note.partition(" A reference")[0] + " References are the next tokens of the text."
    blocks: list[Block] = [*map(Note, notes), Table("", ["", *columns], lines, note)]
    if ends:
        blocks += _length_charts(answers)
    return ReportSection("answers", "Generated texts", blocks, _finding(answers, ends=ends))


def _measures(answers: Sequence[Answer], column: str, *, ends: bool) -> dict[str, Any]:
    """Return the measures of the texts of a column; None for what is unknown of them."""
    texts = [answer.texts[column] for answer in answers]
    counts = Counter(text.text for text in texts)
    unended = [text.is_ended for text in texts]
    measures: dict[str, Any] = {
        "tokens": _mean(texts, lambda text: len(text.ids)),
        f"repeated {ORDER}-grams": _mean(texts, lambda text: repeated_share(text.ids)),
        "equal to another row's": _mean(texts, lambda text: counts[text.text] > 1),
    }
    if ends:
        known = None not in unended
        measures["do not end"] = _mean(texts, lambda text: not text.is_ended) if known else None
    return measures


def _mean(texts: Sequence[Written], measure: Callable[[Written], float]) -> Estimate:
    return mean_interval(np.array([float(measure(text)) for text in texts]))


def _cell(value: Estimate | None) -> Estimate | str:
    return "unknown" if value is None else value


def _length_charts(answers: Sequence[Answer]) -> list[Block]:
    columns = {AFTER: [len(each.after.ids) for each in answers]}
    columns[REFERENCE] = [len(each.reference.ids) for each in answers]
    longest = max(map(max, columns.values()))
    edges = np.linspace(0, longest + 1, min(longest + 1, 20) + 1)
    data = [
        line
        for name, lengths in columns.items()
        for line in records(
            **{"from": edges[:-1], "to": edges[1:], "rows": np.histogram(lengths, edges)[0]},
            text=[name] * (len(edges) - 1),
        )
    ]
    channels = {
        "x": {"field": "from", "type": "quantitative", "title": "tokens", "bin": "binned"},
        "x2": {"field": "to"},
        "y": {"field": "rows", "type": "quantitative", "title": "rows", "stack": None},
        "color": {"field": "text", "type": "nominal", "sort": list(columns)},
    }
    bars = {"mark": {"type": "bar", "opacity": 0.55, "tooltip": True}, "encoding": channels}
    points = records(
        reference=columns[REFERENCE],
        generated=columns[AFTER],
        row=[answer.number for answer in answers],
    )
    mark = {"type": "circle", "color": BLUE, "opacity": 0.55, "cursor": "pointer", "tooltip": True}
    place = {
        axis: {"field": name, "type": "quantitative", "title": f"{name}, tokens"}
        for axis, name in (("x", "reference"), ("y", "generated"))
    }
    cloud = {"mark": mark, "encoding": {**place, "detail": [{"field": "row"}]}}
    pairs = layered(points, [diagonal_of(0, longest), cloud])
    return [
        Chart("answer-lengths", "Lengths", layered(data, [bars])),
        Chart(
            "length-by-reference",
            "Length against the reference's",
            pairs,
            "A point is a row; choose one to see it.",
            {"row": "row"},
        ),
    ]


def _finding(answers: Sequence[Answer], *, ends: bool) -> str:
    """Return what is wrong with the texts after training, else how long they are."""
    found = []
    unended = sum(answer.after.is_ended is False for answer in answers)
    if ends and unended:
        found.append(f"{unended} of {len(answers)} do not end")
    repeated, given = (
        float(np.mean([repeated_share(answer.texts[column].ids) for answer in answers]))
        for column in (AFTER, REFERENCE)
    )
    if repeated > given + REPEATS_MORE:
        found.append(f"repeated {ORDER}-grams: {repeated:.0%}, in the references {given:.0%}")
    counts = Counter(answer.after.text for answer in answers)
    text, count = counts.most_common(1)[0]
    if count > 1 and count > max(Counter(a.reference.text for a in answers).values()):
        found.append(f"{count} of {len(answers)} are equal: {text[:60]!r}")
    return "; ".join(found)


def sample_section(answers: Sequence[Answer], *, ends: bool) -> ReportSection:
    """Show the texts of some rows side by side; `ends` as of `answer_section`."""
    cards = []
    for answer in answers[:SAMPLES]:
        prompt = answer.prompt
        shown = prompt if len(prompt) <= _PROMPT else f"... {prompt[-_PROMPT:]}"
        texts = {name: written.text[:_TEXT] for name, written in answer.texts.items()}
        facts = {"tokens": f"{len(answer.after.ids)}, reference {len(answer.reference.ids)}"}
        if ends and answer.after.is_ended is False:
            facts["end"] = "not reached"
        cards.append(Card(f"row {answer.number}", facts, texts={"prompt": shown, **texts}))
    title = "Samples"
    if answers[0].before is not None:
        title = "Samples before and after training"
    return ReportSection("samples", title, [Cards("samples", cards)])
