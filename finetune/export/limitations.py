"""What the data and the figures of a run show that its model should not be trusted with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from finetune.errors import listed
from finetune.reporting.console import format_count
from finetune.reporting.metric_tables import by_label, overall

if TYPE_CHECKING:
    from finetune.export.card_data import Story
    from finetune.task_parts import Length

FEW_ROWS = 50  # of a label in train
FEW_MEASURED = 1000  # rows of a held-out split
LOPSIDED = 5  # times as many rows of the largest label as of the smallest
NAMED = 10
BY_CLASS = ("iou/", "ap/")  # metrics of a class: 0 is none of it found


def find_limits(story: Story) -> Iterator[str]:
    """A sentence for each limit, the gravest first. Raises nothing: a card is always written."""
    yield from _of_measurement(story)
    yield from _of_labels(story)
    yield from _of_lengths(story)
    yield (
        "Rows unlike those above (another source, language, time or camera) were not measured, nor "
        "were fairness between groups, calibration, or inputs made to mislead."
    )


def cut_note(lengths: Sequence[Length], unit: str) -> str:
    """How many rows are cut, and how much of all of them that loses; "" if none is.

    `unit` is what lengths count, in the plural.
    """
    cut = [length for length in lengths if length.cut]
    if not cut:
        return ""
    longest = max(length.used - length.repeated for length in cut)
    lost = sum(length.cut for length in cut)
    whole = sum(length.used - length.repeated + length.cut for length in lengths)
    share = f"{lost / whole:.0%}" if lost / whole >= 0.005 else "under 1%"
    rows = f"{len(cut)} of {len(lengths)} rows are cut to {longest} {unit}"
    return f"{rows}, which loses {share} of all {unit}"


def _of_measurement(story: Story) -> Iterator[str]:
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


def _of_labels(story: Story) -> Iterator[str]:
    train = {label: counts.get("train", 0) for label, counts in story.labels.items()}
    few = {label: count for label, count in train.items() if count < FEW_ROWS}
    if few:
        yield f"Labels with fewer than {FEW_ROWS} rows to learn from: {_named(few)}."
    largest = max(train, key=train.__getitem__, default=None)
    smallest = min(train, key=train.__getitem__, default=None)
    if largest is not None and smallest is not None and train[largest] > LOPSIDED * train[smallest]:
        counts = f"{train[largest]} rows of {largest!r}, {train[smallest]} of {smallest!r}"
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


def _of_lengths(story: Story) -> Iterator[str]:
    for split, lengths in story.lengths.items():
        if note := cut_note(lengths, story.length_unit):
            yield f"In {split} {note}: what stands there was not read."


def _named(counts: Mapping[str, int]) -> str:
    """The labels with the fewest rows, and how many of each."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    return listed((f"{label} ({count})" for label, count in ordered), NAMED)
