"""What the data and the figures of a run show that its model should not be trusted with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from finetune.errors import listed
from finetune.reporting.console import format_count
from finetune.reporting.metric_tables import by_label, overall
from finetune.reporting.run_facts import cut_note

if TYPE_CHECKING:
    from finetune.export.card_data import CardData

FEW_ROWS = 50  # of a label in train
FEW_MEASURED = 1000  # rows of a held-out split
LOPSIDED = 5  # times as many rows of the largest label as of the smallest
NAMED = 10
BY_CLASS = ("iou/", "ap/")  # metrics of a class: 0 is none of it found


def find_limits(story: CardData) -> Iterator[str]:
    """A sentence for each limit, the gravest first. Raises nothing: a card is always written."""
    yield from _of_measurement(story)
    yield from _of_labels(story)
    yield from _of_lengths(story)
    yield (
        "Rows unlike those above (another source, language, time or camera) were not measured, nor "
        "were fairness between groups, calibration, or inputs made to mislead."
    )


def _of_measurement(story: CardData) -> Iterator[str]:
    if not story.results:
        yield "No row was held out: how good it is on rows that it has not seen is not known."
    elif set(story.results) == {story.selected}:
        yield (
            f"There was no test split: the figures are of {story.selected}, which selected the "
            "checkpoint, and are a little too good."
        )
    for split, metrics in story.results.items():
        count = len(story.lengths[split])
        accuracy = overall(metrics).get("accuracy")
        if count >= FEW_MEASURED:
            continue
        # The normal approximation of a share's 95 % interval.
        spread = 1.96 * math.sqrt(accuracy * (1 - accuracy) / count) if accuracy else 0.0
        width = f" (95 % interval of the accuracy: about +-{spread:.3f})" if spread else ""
        yield f"{split} has only {format_count(count, 'row')}, so its figures are rough{width}."


def _of_labels(story: CardData) -> Iterator[str]:
    train = {label: counts.get("train", 0) for label, counts in story.labels.items()}
    few = {label: count for label, count in train.items() if count < FEW_ROWS}
    if few:
        yield f"Labels with fewer than {FEW_ROWS} rows to learn from: {_named(few)}."
    ordered = sorted(train.items(), key=lambda item: item[1])
    if ordered and ordered[-1][1] > LOPSIDED * ordered[0][1]:
        (smallest, fewest), (largest, most) = ordered[0], ordered[-1]
        counts = f"{most} rows of {largest!r}, {fewest} of {smallest!r}"
        yield f"The labels are unbalanced: {counts}."
    for split, metrics in story.results.items():
        unmeasured = [label for label, *_, support in by_label(metrics) if not support]
        missed = {
            str(label): int(support)
            for label, _, recall, _, support in by_label(metrics)
            if support and recall == 0
        }
        if unmeasured:
            names = listed(unmeasured, NAMED)
            yield f"Labels without a row in {split}, so not measured there: {names}."
        nothing = [key for key, value in metrics.items() if value == 0]
        if lost := [key.partition("/")[2] for key in nothing if key.startswith(BY_CLASS)]:
            yield f"Classes of which nothing in {split} was found: {listed(lost, NAMED)}."
        if missed:
            yield f"Labels of which no row of {split} was recognised: {_named(missed)}."


def _of_lengths(story: CardData) -> Iterator[str]:
    for split, lengths in story.lengths.items():
        if note := cut_note(lengths, story.length_unit):
            yield f"In {split} {note}: what stands there was not read."


def _named(counts: Mapping[str, int]) -> str:
    """The labels with the fewest rows, and how many of each."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    return listed((f"{label} ({count})" for label, count in ordered), NAMED)
