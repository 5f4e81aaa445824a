"""The metrics of task.metrics, loaded and tried on made-up rows before training."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from finetune.errors import ConfigError, listed, nearest
from tasks.metrics.evaluate_modules import (
    compute_module,
    first_line,
    load_module,
)
from tasks.metrics.judged_rows import Judged, RowKind, trial_rows
from tasks.metrics.library_metrics import LIBRARY, check_library, compute_library, suits
from tasks.metrics.metric_config import MetricConfig, is_code
from tasks.metrics.text_metrics import TEXT_METRICS, check_scorers

_LABELS = ("labels", "pos_label")  # settings that name labels
MOST_VALUES = 32
"""Length up to which lists that have no value for each label are spread by position."""


class _Loaded(NamedTuple):
    entry: MetricConfig
    compute: Callable[[Judged], Any]
    labels: Sequence[str]
    """The labels of a result with one value for each."""


class ExtraMetrics:
    """Metrics for rows of one kind, besides those that a task always measures.

    Attributes:
        names: the names of all values.
        notes: one sentence for each thing that a metric returns and that is left out.
    """

    def __init__(
        self, entries: Sequence[MetricConfig], kind: RowKind, labels: Sequence[str] = ()
    ) -> None:
        """Load all metrics and try them. Raises ConfigError."""
        titles = Counter(entry.title for entry in entries)
        if repeated := [title for title, count in titles.items() if count > 1]:
            raise ConfigError(
                f"task.metrics: {repeated[0]} occurs {titles[repeated[0]]} times; tell them apart "
                f"by a prefix, such as {{name: {repeated[0]}, prefix: {repeated[0]}_2}}"
            )
        self._metrics, values = list[_Loaded](), list[tuple[_Loaded, Any]]()
        if entries:  # scores of trial rows are quadratic in the number of labels
            trial = trial_rows(kind, labels)
            self._metrics = [_load(entry, trial) for entry in entries]
            values = [(each, _compute(each, trial)) for each in self._metrics]
        self.names = [name for each, result in values for name in _numbers(each, result)]
        self.notes = [note for each, result in values for note in _left_out(each, result)]

    def compute(self, judged: Judged) -> dict[str, float]:
        """Compute all metrics as {<title>/<key>: number}; NaN where one is undefined.

        A result with one value per label is <title>/<key>/<label>. Raises ConfigError.
        """
        results: dict[str, float] = {}
        for each in self._metrics:
            results |= _numbers(each, _compute(each, judged))
        return results


def known_metrics(trial: Judged) -> list[str]:
    """Return the names of metrics for such rows that need neither a hub nor a module."""
    if trial.kind == "text":
        return sorted(TEXT_METRICS)
    return sorted(name for name, metric in LIBRARY.items() if suits(metric, trial))


def _load(entry: MetricConfig, trial: Judged) -> _Loaded:
    settings = entry.settings
    named = {key: _as_index(settings[key], trial.names) for key in _LABELS if key in settings}
    settings |= named
    chosen = settings.get("labels")
    labels = trial.names if chosen is None else [trial.names[index] for index in chosen]
    known = nearest(entry.name, known_metrics(trial))
    if is_code(entry.name):
        module = load_module(entry.name, entry.config, trial, known)
        compute: Callable[[Judged], Any] = partial(compute_module, module, settings)
    elif trial.kind == "text" and entry.name in TEXT_METRICS:
        check_scorers([entry.name], f"task.metrics: {entry.name}")
        compute = partial(_compute_text, entry.name, settings)
    elif entry.name not in LIBRARY:
        raise ConfigError(f"task.metrics: {entry.name} is for texts; {known}")
    else:
        check_library(entry.name, entry.config, trial, known)
        compute = partial(compute_library, entry.name, settings)
    return _Loaded(entry, compute, labels)


def _compute_text(name: str, settings: Mapping[str, Any], judged: Judged) -> dict[str, float]:
    return TEXT_METRICS[name](judged.predictions, judged.targets, **settings)


def _as_index(value: Any, names: Sequence[str]) -> Any:
    """Return the index of a label that a setting names, such as pos_label or labels."""
    if isinstance(value, list):
        return [_as_index(item, names) for item in value]
    return names.index(value) if isinstance(value, str) and value in names else value


def _compute(metric: _Loaded, judged: Judged) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # undefined values are reported as NaN
            return metric.compute(judged)
    except Exception as error:  # third-party code may raise anything
        settings = f" with {metric.entry.settings}" if metric.entry.settings else ""
        raise ConfigError(
            f"task.metrics: {metric.entry.name!r}{settings} failed on the predictions of this "
            f"task: {first_line(error)}. Change its settings, or remove it"
        ) from error


def _numbers(metric: _Loaded, result: Any) -> dict[str, float]:
    return {name: value for name, value in _values(metric, result) if isinstance(value, float)}


def _left_out(metric: _Loaded, result: Any) -> list[str]:
    names = [name for name, value in _values(metric, result) if not isinstance(value, float)]
    if not names:
        return []
    return [f"metrics: {listed(names, 5)} left out, not a number or a number for each label"]


def _values(metric: _Loaded, result: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, number) for each value of a result, and (name, None) for any other."""
    title = metric.entry.title
    named = result if isinstance(result, Mapping) else {title: result}
    for key, value in named.items():
        yield from _spread(f"{title}/{key}", value, metric.labels)


def _spread(name: str, value: Any, labels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _spread(f"{name}/{key}", inner, labels)
    elif isinstance(value, list | tuple) and len(value) in (len(labels), *range(MOST_VALUES + 1)):
        positions = [str(number) for number in range(1, len(value) + 1)]
        for key, inner in zip(
            labels if len(value) == len(labels) else positions, value, strict=True
        ):
            yield from _spread(f"{name}/{key}", inner, labels)
    else:
        yield name, float(value) if isinstance(value, Real) else None
