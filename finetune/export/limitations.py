"""Limitations of a model that follow from its data and its measured results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from finetune.errors import format_count, listed
from finetune.reporting.metric_tables import by_label, overall
from finetune.reporting.run_facts import cut_note

if TYPE_CHECKING:
    from finetune.export.card_data import CardData

FEW_TRAINING_ROWS = 50  # of a label in train
FEW_TEST_ROWS = 1000  # of a held-out split
IMBALANCED = 5  # ratio of training rows between the largest and the smallest label
MOST_NAMED = 10
LEAKAGE = "warning: leakage: "  # begins a note on rows of train in another split
CLASS_METRICS = ("iou/", "ap/")  # 0 means that nothing of the class was found


def find_limitations(card: CardData) -> Iterator[str]:
    """Yield one sentence per limitation, most severe first.

    Raises nothing, since every run gets a card.
    """
    yield from _leaks(card)
    yield from _evaluation_limitations(card)
    yield from _label_limitations(card)
    yield from _added_rows(card)
    yield from _truncation_limitations(card)
    measured = {
        "fairness across groups": card.slices.get("groups"),
        "slices of the data": card.slices.get("slices"),
        "label errors": card.slices.get("doubtful"),
        "calibration": card.calibration.get("measured"),
    }
    missing = "".join(f"{name}, " for name, facts in measured.items() if not facts)
    yield (
        "Not evaluated: data unlike the above (another source, language, time period or camera), "
        f"{missing}and robustness to adversarial inputs."
    )


def _leaks(card: CardData) -> Iterator[str]:
    for note in card.notes:
        if note.startswith(LEAKAGE):
            found = note.removeprefix(LEAKAGE).partition(";")[0]
            yield f"Leakage: {found}; the metrics there are optimistically biased."


def _evaluation_limitations(card: CardData) -> Iterator[str]:
    if not card.results:
        yield "No rows were held out, so performance on unseen data is unknown."
    elif set(card.results) == {card.selected}:
        yield (
            f"There was no test split: the metrics are from {card.selected}, which also selected "
            "the checkpoint, so they are optimistically biased."
        )
    for split, metrics in card.results.items():
        count = len(card.lengths[split])
        accuracy = overall(metrics).get("accuracy")
        if count >= FEW_TEST_ROWS:
            continue
        # Normal approximation of the binomial proportion interval.
        half_width = 1.96 * math.sqrt(accuracy * (1 - accuracy) / count) if accuracy else 0.0
        interval = f" (95% interval of the accuracy: about ±{half_width:.3f})" if half_width else ""
        rows = format_count(count, "row")
        yield f"The {split} split has only {rows}, so its metrics are imprecise{interval}."


def _label_limitations(card: CardData) -> Iterator[str]:
    train = {label: counts.get("train", 0) for label, counts in card.labels.items()}
    few = {label: count for label, count in train.items() if count < FEW_TRAINING_ROWS}
    if few:
        unit = card.label_unit
        yield f"Labels with fewer than {FEW_TRAINING_ROWS} training {unit}: {_list_counts(few)}."
    ordered = sorted(train.items(), key=lambda item: item[1])
    if ordered and ordered[-1][1] > IMBALANCED * ordered[0][1]:
        (smallest, fewest), (largest, most) = ordered[0], ordered[-1]
        counts = f"{most} training {card.label_unit} of {largest!r}, {fewest} of {smallest!r}"
        yield f"The labels are imbalanced: {counts}."
    for split, metrics in card.results.items():
        unmeasured = [label for label, *_, support in by_label(metrics) if not support]
        missed = {
            str(label): int(support)
            for label, _, recall, _, support in by_label(metrics)
            if support and recall == 0
        }
        if unmeasured:
            names = listed(unmeasured, MOST_NAMED)
            yield f"Labels without rows in {split}, and therefore not measured there: {names}."
        zeros = [key for key, value in metrics.items() if value == 0]
        if missing := [key.partition("/")[2] for key in zeros if key.startswith(CLASS_METRICS)]:
            yield f"Classes never found in {split}: {listed(missing, MOST_NAMED)}."
        if missed:
            names = _list_counts(missed)
            yield f"Labels never recognized in {split} (row counts in parentheses): {names}."


def _added_rows(card: CardData) -> Iterator[str]:
    for added in card.added:
        whole = len(card.lengths["train"]) + sum(each.total for each in card.added)
        what = {
            "pseudo-labeled": "have pseudo-labels, which a model gave them and nobody has checked",
            "synthetic": "are synthetic: feature vectors that were generated, not rows of the data",
        }[added.kind]
        yield f"{added.total} of the {whole} rows that were trained on {what} ({added.key})."


def _truncation_limitations(card: CardData) -> Iterator[str]:
    for split, lengths in card.lengths.items():
        if note := cut_note(lengths, card.length_unit):
            yield f"In {split}, {note}; the rest of these rows was not read."


def _list_counts(counts: Mapping[str, int]) -> str:
    """List labels with their row counts, fewest first."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    return listed((f"{label} ({count})" for label, count in ordered), MOST_NAMED)
