"""Metrics by name, without a hub: those of scikit-learn and SciPy that `evaluate` modules wrap.

They have the names, the settings and the results of those modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from finetune.errors import ConfigError, nearest
from tasks.metrics.judged_rows import Judged, RowKind, with_defaults

_CLASSES: tuple[RowKind, ...] = ("single", "several")
_CONFIGS = {"single": ("default", "multiclass"), "several": ("multilabel",), "number": ("default",)}


class LibraryMetric(NamedTuple):
    """A function (true values, predicted values, **settings) of a library.

    Attributes:
        function: as module:function.
        kinds: the kinds of rows that it is for.
        settings: the names of its settings.
        reads_scores: True for probabilities in place of predictions.
        for_two: True if it is for two labels only.
    """

    function: str
    kinds: tuple[RowKind, ...]
    settings: tuple[str, ...] = ()
    reads_scores: bool = False
    for_two: bool = False


_OF_LABELS = ("average", "labels", "pos_label", "zero_division")
_OF_NUMBERS = ("multioutput",)
CHOICES = {
    "average": ("binary", "macro", "micro", "samples", "weighted"),
    "multi_class": ("ovo", "ovr", "raise"),
}
"""The values of settings that are words; null is one, too."""


def _by_sklearn(function: str, kinds: tuple[RowKind, ...], *settings: str) -> LibraryMetric:
    return LibraryMetric(f"sklearn.metrics:{function}", kinds, settings)


def _by_scores(function: str, kinds: tuple[RowKind, ...], *settings: str) -> LibraryMetric:
    return _by_sklearn(function, kinds, *settings)._replace(reads_scores=True)


LIBRARY: dict[str, LibraryMetric] = {
    "accuracy": _by_sklearn("accuracy_score", _CLASSES, "normalize"),
    "average_precision": _by_scores("average_precision_score", _CLASSES, "average", "pos_label"),
    "balanced_accuracy": _by_sklearn("balanced_accuracy_score", ("single",), "adjusted"),
    "brier_score": _by_scores(
        "brier_score_loss", ("single",), "labels", "pos_label", "scale_by_half"
    )._replace(for_two=True),
    "cohen_kappa": _by_sklearn(
        "cohen_kappa_score", ("single",), "labels", "replace_undefined_by", "weights"
    ),
    "f1": _by_sklearn("f1_score", _CLASSES, *_OF_LABELS),
    "hamming_loss": _by_sklearn("hamming_loss", _CLASSES),
    "jaccard": _by_sklearn("jaccard_score", _CLASSES, *_OF_LABELS),
    "log_loss": _by_scores("log_loss", ("single",), "labels", "normalize"),
    "mae": _by_sklearn("mean_absolute_error", ("number",), *_OF_NUMBERS),
    "mape": _by_sklearn("mean_absolute_percentage_error", ("number",), *_OF_NUMBERS),
    "matthews_correlation": _by_sklearn("matthews_corrcoef", ("single",)),
    "mse": _by_sklearn("mean_squared_error", ("number",), *_OF_NUMBERS),
    "pearsonr": LibraryMetric("scipy.stats:pearsonr", ("number",), ("alternative", "method")),
    "precision": _by_sklearn("precision_score", _CLASSES, *_OF_LABELS),
    "r_squared": _by_sklearn("r2_score", ("number",), "force_finite", *_OF_NUMBERS),
    "recall": _by_sklearn("recall_score", _CLASSES, *_OF_LABELS),
    "roc_auc": _by_scores("roc_auc_score", _CLASSES, "average", "labels", "max_fpr", "multi_class"),
    "spearmanr": LibraryMetric("scipy.stats:spearmanr", ("number",), ("alternative", "nan_policy")),
}


def setting_faults(name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the settings of a metric of `LIBRARY`, as far as names can tell."""
    known = LIBRARY[name].settings
    for key, value in settings.items():
        if key not in known:
            yield f"{name}: unknown setting {key!r}; {nearest(key, known)}"
        elif value is not None and key in CHOICES and value not in CHOICES[key]:
            yield f"{name}: unknown {key} {value!r}; {nearest(str(value), CHOICES[key])}"


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
