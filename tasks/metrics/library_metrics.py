"""Metrics by name, without a hub: those of scikit-learn and SciPy that `evaluate` modules wrap.

They have the names, the settings and the results of those modules.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from finetune.errors import ConfigError
from tasks.metrics.judged_rows import Judged, RowKind, with_defaults

_CLASSES: tuple[RowKind, ...] = ("single", "several")
_CONFIGS = {"single": ("default", "multiclass"), "several": ("multilabel",), "number": ("default",)}


class LibraryMetric(NamedTuple):
    """A function (true values, predicted values, **settings) of a library.

    Attributes:
        function: as module:function.
        kinds: the kinds of rows that it is for.
        reads_scores: True for probabilities in place of predictions.
        for_two: True if it is for two labels only.
    """

    function: str
    kinds: tuple[RowKind, ...]
    reads_scores: bool = False
    for_two: bool = False


LIBRARY: dict[str, LibraryMetric] = {
    "accuracy": LibraryMetric("sklearn.metrics:accuracy_score", _CLASSES),
    "average_precision": LibraryMetric("sklearn.metrics:average_precision_score", _CLASSES, True),
    "balanced_accuracy": LibraryMetric("sklearn.metrics:balanced_accuracy_score", ("single",)),
    "brier_score": LibraryMetric("sklearn.metrics:brier_score_loss", ("single",), True, True),
    "cohen_kappa": LibraryMetric("sklearn.metrics:cohen_kappa_score", ("single",)),
    "f1": LibraryMetric("sklearn.metrics:f1_score", _CLASSES),
    "hamming_loss": LibraryMetric("sklearn.metrics:hamming_loss", _CLASSES),
    "jaccard": LibraryMetric("sklearn.metrics:jaccard_score", _CLASSES),
    "log_loss": LibraryMetric("sklearn.metrics:log_loss", ("single",), True),
    "mae": LibraryMetric("sklearn.metrics:mean_absolute_error", ("number",)),
    "mape": LibraryMetric("sklearn.metrics:mean_absolute_percentage_error", ("number",)),
    "matthews_correlation": LibraryMetric("sklearn.metrics:matthews_corrcoef", ("single",)),
    "mse": LibraryMetric("sklearn.metrics:mean_squared_error", ("number",)),
    "pearsonr": LibraryMetric("scipy.stats:pearsonr", ("number",)),
    "precision": LibraryMetric("sklearn.metrics:precision_score", _CLASSES),
    "r_squared": LibraryMetric("sklearn.metrics:r2_score", ("number",)),
    "recall": LibraryMetric("sklearn.metrics:recall_score", _CLASSES),
    "roc_auc": LibraryMetric("sklearn.metrics:roc_auc_score", _CLASSES, True),
    "spearmanr": LibraryMetric("scipy.stats:spearmanr", ("number",)),
}


def suits(metric: LibraryMetric, rows: Judged) -> bool:
    """True if a metric is for such rows."""
    return rows.kind in metric.kinds and (rows.is_binary or not metric.for_two)


def check_library(name: str, config: str | None, trial: Judged, known: str) -> None:
    """Raise ConfigError if a metric is for other rows, or if its library is not installed.

    `known` offers other metrics.
    """
    metric, place = LIBRARY[name], f"task.metrics: {name}"
    if not suits(metric, trial):
        wanted = "two labels" if metric.for_two else " or ".join(map(_describe, metric.kinds))
        raise ConfigError(f"{place} is for {wanted}; for {_describe(trial.kind)}, {known}")
    if config not in (None, *_CONFIGS[trial.kind]):
        raise ConfigError(
            f"{place}: config={config} does not fit {_describe(trial.kind)}; leave config out"
        )
    package = metric.function.partition(".")[0]
    if find_spec(package) is None:
        raise ConfigError(f"{place} needs scikit-learn; run: pip install 'finetune-kit[metrics]'")


def compute_library(name: str, settings: dict[str, Any], judged: Judged) -> dict[str, Any]:
    """Compute a metric of `LIBRARY` on rows, averaged over labels unless `settings` say else."""
    metric = LIBRARY[name]
    module, _, function_name = metric.function.partition(":")
    function = getattr(import_module(module), function_name)
    predicted = judged.predictions
    if metric.reads_scores:
        assert judged.scores is not None, "the kind was checked"
        predicted = judged.scores[:, 1] if judged.is_binary else judged.scores
    result = function(judged.targets, predicted, **with_defaults(function, settings, judged))
    return {name: getattr(result, "statistic", result)}


def _describe(kind: RowKind) -> str:
    return {
        "single": "one label per row",
        "several": "several labels per row",
        "number": "numbers",
        "text": "texts",
    }[kind]
