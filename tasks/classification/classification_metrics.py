"""Metrics of classification and regression as pure functions of arrays.

Shared by text and image tasks. Undefined metrics, such as a correlation with a constant or the ROC
curve of a single class, are left out of the result, since JSON has no NaN. Only the tests use
scikit-learn, as a reference: it takes 3 s to import and 20 s for the ROC curves of 1000 classes and
50 000 rows (2 s here), and it reads an indicator of one label [N, 1] as two classes.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def classification_metrics(scores: Array, targets: Array, names: Sequence[str]) -> dict[str, float]:
    """Compute single-label metrics from probabilities [N, C] and class indices [N].

    f1_macro is the mean over the classes that occur in targets or predictions, as in scikit-learn.
    roc_auc is that of class 1 for two classes, else the one-vs-rest mean over the classes that
    occur in targets; it is left out if only one does. matthews is 0 where it is undefined, and so
    are the metrics of a class that does not occur.
    """
    # Not by the confusion matrix, which has a hundred million cells for ten thousand classes.
    classes, guesses = len(names), scores.argmax(axis=1)
    hits, predicted, support = (
        np.bincount(each, minlength=classes)
        for each in (targets[guesses == targets], guesses, targets)
    )
    ranked = [1] if classes == 2 else range(classes)
    return {
        "accuracy": float(hits.sum() / len(targets)),
        "matthews": _matthews(hits, predicted, support),
        **_roc_auc((scores[:, column], targets == column) for column in ranked),
        **_label_metrics(hits, predicted, support, names),
    }


def top_accuracy(scores: Array, targets: Array, count: int) -> float:
    """Return the share of rows whose class [N] is among the `count` highest scores [N, C]."""
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return float((best == targets[:, None]).any(axis=1).mean())


def multilabel_metrics(
    scores: Array, targets: Array, names: Sequence[str], threshold: float | Array
) -> dict[str, float]:
    """Compute multi-label metrics from scores [N, C] in 0..1 and targets [N, C] of 0 and 1.

    A label is predicted where its score reaches `threshold`, or that of the label. f1_macro is the
    mean over the labels that occur in targets or predictions, roc_auc over those that some rows
    have and others lack.
    """
    predicted, true = scores >= threshold, targets.astype(bool)
    return {
        "subset_accuracy": float(np.mean((predicted == true).all(axis=1))),
        **_roc_auc(zip(scores.T, true.T, strict=True)),
        **_label_metrics((predicted & true).sum(0), predicted.sum(0), true.sum(0), names),
    }


def regression_metrics(values: Array, targets: Array) -> dict[str, float]:
    """Compute errors of values [N] against targets [N]; r2 and correlations unless constant."""
    from scipy.stats import pearsonr, spearmanr

    values, targets = values.astype(np.float64), targets.astype(np.float64)
    error = values - targets
    metrics = {"rmse": math.sqrt(np.mean(error**2)), "mae": float(np.mean(np.abs(error)))}
    if _varies(targets):
        metrics["r2"] = float(1 - np.mean(error**2) / np.var(targets))
        if _varies(values):
            metrics["pearson"] = float(pearsonr(values, targets).statistic)
            metrics["spearman"] = float(spearmanr(values, targets).statistic)
    return metrics


def _varies(values: Array) -> bool:
    # A spread within rounding error counts as constant: a correlation with it would be noise.
    return bool(np.ptp(values) > 1e-12 * np.abs(values).max())


def _label_metrics(
    hits: Array, predicted: Array, support: Array, names: Sequence[str]
) -> dict[str, float]:
    """Compute F1 averages and per-label metrics from row counts [C]; 0 where there are no rows."""
    both = predicted + support
    f1 = 2 * hits / np.maximum(both, 1)
    columns = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": f1,
        "support": support.astype(float),
    }
    return {
        "f1_macro": float(f1.sum() / max((both > 0).sum(), 1)),
        "f1_micro": float(2 * hits.sum() / max(both.sum(), 1)),
        **{
            f"{metric}/{name}": value
            for metric, column in columns.items()
            for name, value in zip(names, column.tolist(), strict=True)
        },
    }


def _matthews(hits: Array, predicted: Array, support: Array) -> float:
    """Return the correlation R_K (Gorodkin 2004) from row counts [C], 0 where undefined."""
    rows = float(support.sum())
    spread = (rows**2 - predicted @ predicted) * (rows**2 - support @ support)
    if not spread:
        return 0.0
    return float((rows * hits.sum() - predicted @ support) / math.sqrt(spread))


def _roc_auc(columns: Iterable[tuple[Array, Array]]) -> dict[str, float]:
    """Compute the mean area under the ROC curves of (scores [N], positive [N]).

    Those of one class only have none.
    """
    # The share of pairs in which the positive row scores higher, ties counting half (Mann-Whitney).
    areas = []
    for scores, positive in columns:
        if positive.any() and not positive.all():
            above, below = scores[positive], np.sort(scores[~positive])
            wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
            areas.append(float(wins.mean()) / 2 / below.size)
    return {"roc_auc": float(np.mean(areas))} if areas else {}


def confusion_matrix(predicted: Array, targets: Array, classes: int) -> Array:
    """Count the rows by true class (row) and predicted class (column), [C, C] int."""
    cells = np.bincount(targets * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)
