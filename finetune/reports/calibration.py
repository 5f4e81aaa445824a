"""The decision whether to calibrate a model, on rows that it was not trained on, and its effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.config.schema import CalibrationWish
from finetune.reports.intervals import Estimate, mean_interval
from finetune.reports.reliability import (
    describe_items,
    describe_reliability,
    item_loss,
    log_losses,
)
from finetune.reports.temperature import (
    FOLDS,
    cross_fit,
    cross_fit_items,
    fit_factors,
    fit_scale,
    scale_items,
    scale_scores,
)
from finetune.task_parts.views import ItemScores, LabelScores

FEWEST_ROWS = 100
"""Rows from which a calibration is fitted unasked; of items, so many right and so many wrong."""


@dataclass(frozen=True)
class Calibration:
    """Factors on the logits, how they were chosen, and what they changed.

    Attributes:
        factors: of each label; None if the logits stay as they are.
        scale: slope and offset of the logits of scores of items, kept beside the network; None if
            they stay as they are.
        note: a sentence on the choice.
        names: the labels, if each has a factor of its own.
        measured: {split: {"before" or "after": {"ece" or "log_loss": [value, low, high]}}}.
    """

    factors: list[float] | None
    note: str
    names: list[str] | None = None
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    scale: list[float] | None = None

    def measure(self, split: str, scores: LabelScores) -> None:
        """Measure a split from the probabilities of the model as it is saved."""
        if self.factors is None:
            self.measured[split] = {"before": describe_reliability(scores)}
            return
        raw = scale_scores(scores, 1 / np.array(self.factors))
        self.measured[split] = _both(raw, scores)

    def measure_items(self, split: str, items: ItemScores) -> None:
        """Measure a split from the scores of the network."""
        self.measured[split] = {"before": describe_items(items)}
        if self.scale is not None:
            scaled = items._replace(scores=scale_items(items.scores, self.scale))
            self.measured[split]["after"] = describe_items(scaled)

    def facts(self) -> dict[str, Any]:
        """Return what results.json holds of it."""
        return {
            "factors": self.factors,
            **({"scale": self.scale} if self.scale is not None else {}),
            "labels": self.names,
            "note": self.note,
            "measured": self.measured,
        }


def choose_calibration(
    scores: LabelScores | None, wish: CalibrationWish, *, split: str, selected: bool | None
) -> Calibration:
    """Fit a calibration to the probabilities of a held-out split, if that pays.

    `wish` is the key `calibrate`: unless it asks for one, the logits stay as they are where the
    split is small, or where rows that took no part in a fit would not profit from it. `selected` is
    True if the split also selected the checkpoint; None if that is unknown.
    """
    if wish == "none":
        return Calibration(None, "not calibrated, as asked")
    if scores is None or not len(scores.scores):
        return Calibration(None, f"not calibrated: no {split} rows to fit a temperature to")
    rows = len(scores.scores)
    if wish is None and rows < FEWEST_ROWS:
        return Calibration(
            None,
            f"not calibrated: {split} has {rows} rows, fewer than {FEWEST_ROWS}; "
            "calibrate=temperature does it regardless",
        )
    factors = fit_factors(scores)
    words, names = _describe(factors, scores)
    note, gain, measured = f"{words}, fitted to {rows} rows of {split}", None, {}
    if rows >= FOLDS:
        fitted = cross_fit(scores)
        gain = mean_interval(log_losses(fitted) - log_losses(scores))
        note += _basis(gain, selected=selected)
        measured = {f"{split}, cross-fitted": _both(scores, fitted)}
    if wish is None and (gain is None or gain.value >= 0):
        return Calibration(
            None,
            f"not needed: {words} would not lower the log loss of {split} rows outside its fit; "
            "calibrate=temperature does it regardless",
        )
    return Calibration(factors.tolist(), note, names, measured)


def choose_scale(
    items: ItemScores, wish: CalibrationWish, *, split: str, selected: bool | None
) -> Calibration:
    """Fit a scale to the scores of the items of a held-out split, as `choose_calibration` does."""
    if fault := _scale_fault(items, wish, split):
        return Calibration(None, fault)
    scale, rows = fit_scale(items), len(items.objects)
    words = f"scores scaled by {scale[0]:.3f} and {scale[1]:+.3f}"
    note = (
        f"{words} (slope and offset of their logits), fitted to {len(items.right)} items in {rows} "
        f"rows of {split}"
    )
    gain, measured = None, {}
    if rows >= FOLDS:
        fitted = cross_fit_items(items)
        gain = item_loss(fitted, items)
        note += _basis(gain, selected=selected)
        measured = {
            f"{split}, cross-fitted": {
                "before": describe_items(items),
                "after": describe_items(fitted),
            }
        }
    if wish is None and (gain is None or gain.value >= 0):
        return Calibration(
            None,
            f"not needed: {words} would not lower the log loss of items of {split} outside its "
            "fit; calibrate=temperature does it regardless",
        )
    return Calibration(None, note, measured=measured, scale=scale)


def _scale_fault(items: ItemScores, wish: CalibrationWish, split: str) -> str | None:
    """Return why no scale is fitted to items; None if one can be."""
    if wish == "none":
        return "not calibrated, as asked"
    right = int(items.right.sum())
    wrong = len(items.right) - right
    if not right or not wrong:
        return (
            f"not calibrated: {right} of {len(items.right)} scores of {split} are of right items; "
            "a scale needs right and wrong ones"
        )
    if wish is None and min(right, wrong) < FEWEST_ROWS:
        return (
            f"not calibrated: {split} has {right} right and {wrong} wrong items, fewer than "
            f"{FEWEST_ROWS} of a kind; calibrate=temperature does it regardless"
        )
    return None


def _both(before: LabelScores, after: LabelScores) -> dict[str, Any]:
    return {"before": describe_reliability(before), "after": describe_reliability(after)}


def _basis(gain: Estimate, *, selected: bool | None) -> str:
    words = {True: ", which also selected", False: ", which did not select"}
    chosen = f"{words[selected]} the checkpoint" if selected is not None else ""
    return (
        f"{chosen}; cross-fitted, it changes their log loss by {gain.value:+.4f} "
        f"({gain.low:+.4f} to {gain.high:+.4f})"
    )


def _describe(factors: np.ndarray, scores: LabelScores) -> tuple[str, list[str] | None]:
    temperatures = 1 / factors
    if scores.exclusive:
        return f"temperature {temperatures[0]:.3f}", None
    low, high = temperatures.min(), temperatures.max()
    return f"temperatures of the labels {low:.3f} to {high:.3f}", [str(n) for n in scores.names]
