"""Rows with their true and predicted values, the input of every metric of task.metrics.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RowKind = Literal["single", "several", "number", "text"]
Array = NDArray[Any]
_TEXTS = ("the cat sat on the mat", "a dog ran home", "no rain fell today", "all birds sang early")


@dataclass(frozen=True)
class Judged:
    """True and predicted values of N rows.

    Attributes:
        kind: one label per row, several labels, a number, or a text.
        names: the C labels; () for numbers and texts.
        targets: class indices [N], indicators [N, C], numbers [N], or N texts.
        predictions: the same.
        scores: probabilities [N, C] of labels; None for numbers and texts.
    """

    kind: RowKind
    names: Sequence[str]
    targets: Any
    predictions: Any
    scores: Array | None = None

    @property
    def is_binary(self) -> bool:
        """True for one of two labels per row."""
        return self.kind == "single" and len(self.names) == 2


def judge(
    kind: RowKind, names: Sequence[str], scores: Array, targets: Array, threshold: Any = 0.5
) -> Judged:
    """Judge rows with one label, several labels or a number.

    `scores` are probabilities [N, C], or numbers [N, 1]; `threshold` is for several labels: that of
    each label [C], or of all.
    """
    if kind == "number":
        return Judged(kind, (), targets.astype(float), scores[:, 0].astype(float))
    if kind == "several":
        return Judged(kind, names, targets.astype(int), (scores >= threshold).astype(int), scores)
    return Judged(kind, names, targets, scores.argmax(axis=1), scores)


def judge_texts(texts: Sequence[str], references: Sequence[str]) -> Judged:
    """Judge a text per row."""
    return Judged("text", (), list(references), list(texts))


def trial_rows(kind: RowKind, names: Sequence[str], most: int | None = None) -> Judged:
    """Return rows in which every label occurs, or the first `most`, to try a metric on.

    They have some mistakes.
    """
    if kind == "text":
        return judge_texts([*_TEXTS[:3], _TEXTS[0]], _TEXTS)
    if kind == "number":
        return judge(kind, (), np.array([[1.0], [2.5], [2.0], [4.5]]), np.array([1, 2, 3, 4]))
    classes = len(names)
    tried = min(classes, most or classes)
    targets = np.tile(np.arange(tried), 3)
    guesses = np.concatenate([np.roll(targets[:tried], 1), targets[tried:]])
    unit = np.eye(tried, classes)
    scores = 0.2 / classes + 0.8 * unit[guesses]
    return judge(kind, names, scores, unit[targets] if kind == "several" else targets)


def with_defaults(
    function: Callable[..., Any], settings: dict[str, Any], judged: Judged
) -> dict[str, Any]:
    """Return the settings of a metric, with those that its defaults for two labels lack."""
    if judged.kind not in ("single", "several"):
        return settings
    defaults = {name: each.default for name, each in signature(function).parameters.items()}
    added: dict[str, Any] = {}
    if not judged.is_binary and defaults.get("average") == "binary":
        added["average"] = "macro"
    if judged.kind == "single" and not judged.is_binary and "multi_class" in defaults:
        added["multi_class"] = "ovr"
    # Without a list of all labels, values by label would be of those that occur in these rows. It
    # is not given to averages, which would count absent labels as 0.
    averages = (defaults | added | settings).get("average") is not None
    lists_labels = "multi_class" in added or not averages
    if judged.kind == "single" and "labels" in defaults and lists_labels:
        added["labels"] = list(range(len(judged.names)))
    return added | settings
