"""From probabilities to decisions: thresholds and prediction sets, learned from held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.reports.conformal import (
    Nonconformity,
    find_sets,
    measure_sets,
    nonconformity,
    set_limits,
)
from finetune.reports.label_thresholds import (
    METRICS,
    USUAL,
    cross_fit_gain,
    cross_fit_item_gain,
    fit_item_threshold,
    fit_thresholds,
)
from finetune.reports.temperature import FOLDS, scale_items
from finetune.task_parts.views import ItemScores, LabelScores

COVERAGES = (0.8, 0.9, 0.95)
"""Coverages that a training measures on its test split."""
_FEWEST_ROWS = 2 * FOLDS


@dataclass(frozen=True)
class Decisions:
    """What was learned from a held-out split, and what it gives on another one.

    Attributes:
        names: the labels.
        thresholds: minimum probability of each label; None without.
        score_threshold: minimum score of an item, such as a box; None without.
        known: scores of the true labels, for prediction sets; None for several labels.
        note: a sentence on how they were learned.
        measured: rows of a table, {"split", "coverage", "by_label", "measured", "size", "single"}.
    """

    names: list[str]
    thresholds: list[float] | None = None
    known: Nonconformity | None = None
    note: str = ""
    measured: list[dict[str, Any]] = field(default_factory=list)
    score_threshold: float | None = None

    def measure(self, split: str, scores: LabelScores) -> None:
        """Measure the prediction sets of a labeled split that took no part in anything."""
        if self.known is None or not len(scores.scores):
            return
        for by_label in (False, True):
            for coverage in COVERAGES:
                limits = set_limits(self.known, coverage, len(self.names), by_class=by_label)
                facts = measure_sets(find_sets(scores.scores, limits), scores.truth)
                self.measured.append(
                    {
                        "split": split,
                        "coverage": coverage,
                        "by_label": by_label,
                        "measured": list(facts.coverage),
                        "size": list(facts.size),
                        "single": facts.single,
                    }
                )

    def state(self) -> dict[str, Any]:
        """Return what predictions need of it, as numbers."""
        state = {
            "thresholds": self.thresholds,
            "conformal": None if self.known is None else self.known.state(),
            "score_threshold": self.score_threshold,
        }
        return {name: value for name, value in state.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """Return what results.json holds of it."""
        named = self.thresholds and dict(zip(self.names, self.thresholds, strict=True))
        facts: dict[str, Any] = {"note": self.note, "thresholds": named, "sets": self.measured}
        if self.score_threshold is not None:
            facts["score_threshold"] = self.score_threshold
        return facts


def learn_decisions(
    scores: LabelScores | None, metric: str, *, split: str, with_thresholds: bool
) -> Decisions | None:
    """Learn thresholds of several labels, if asked, or the scores for sets of one label.

    None for a task without labels. Thresholds are kept if they gain something on rows outside their
    fit, else all stay at 0.5.
    """
    if scores is None or not len(scores.scores):
        return None
    names = [str(name) for name in scores.names]
    if scores.exclusive:
        note = f"prediction sets: from {len(scores.scores)} rows of {split}"
        return Decisions(names, known=nonconformity(scores), note=note)
    if not with_thresholds:
        return None
    rows, asked = len(scores.scores), metric if metric in METRICS else METRICS[0]
    if rows < _FEWEST_ROWS:
        note = f"thresholds stay at {USUAL}: {split} has {rows} rows, fewer than {_FEWEST_ROWS}"
        return Decisions(names, note=note)
    gain = cross_fit_gain(scores, asked)
    low, high = gain.gain.low, gain.gain.high
    words = (
        f"{gain.gain.value:+.4f} ({low:+.4f} to {high:+.4f}) in {asked} on rows of {split} outside "
        "their fit"
    )
    if gain.gain.value <= 0:
        return Decisions(names, note=f"thresholds stay at {USUAL}: learned ones give {words}")
    thresholds = fit_thresholds(scores, asked).round(6).tolist()
    note = f"thresholds of the labels {min(thresholds):.3f} to {max(thresholds):.3f}, learned from "
    return Decisions(names, thresholds, note=f"{note}{rows} rows of {split}: {words}")


def learn_score_threshold(
    items: ItemScores, scale: Sequence[float] | None, *, split: str
) -> Decisions:
    """Learn the minimum score of an item with the highest F1, a scaled score.

    It is kept if it has a higher F1 than the usual one on rows outside its fit.
    """
    items, usual = items._replace(scores=scale_items(items.scores, scale)), items.threshold
    rows, threshold = len(items.objects), fit_item_threshold(items)
    if threshold is None or rows < _FEWEST_ROWS:
        why = "without a right item" if threshold is None else f"fewer than {_FEWEST_ROWS}"
        note = f"score_threshold stays at {usual:g}: {split} has {rows} rows, {why}"
        return Decisions([], note=note)
    found = cross_fit_item_gain(items)
    words = (
        f"{found.gain.value:+.4f} ({found.gain.low:+.4f} to {found.gain.high:+.4f}) in F1, "
        f"{found.value:.4f}, on rows of {split} outside its fit"
    )
    if found.gain.value <= 0:
        return Decisions(
            [], note=f"score_threshold stays at {usual:g}: a learned one gives {words}"
        )
    note = f"score_threshold {threshold:.3f}, learned from {rows} rows of {split}: {words}"
    return Decisions([], note=note, score_threshold=round(threshold, 6))
