"""The key task.metrics: what to measure besides the metrics that a task always has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, field_validator

from finetune.config.schema import Section, TaskConfig
from finetune.errors import nearest
from tasks.metrics.evaluate_modules import find_script
from tasks.metrics.library_metrics import LIBRARY, setting_faults
from tasks.metrics.text_metrics import TEXT_METRICS, text_setting_faults


class MetricConfig(Section):
    """A metric with settings. Further keys, such as average, are arguments of its `compute`."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Name of a metric, path of a module of `evaluate`, or hub id of one."""
    config: str | None = None
    """Configuration of the module, such as multilabel; null: chosen by the kind of the labels."""
    prefix: str | None = None
    """First part of the names of its values; null: the last part of `name`."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `compute`."""
        return dict(self.model_extra or {})

    @property
    def title(self) -> str:
        """The first part of the names of its values."""
        return self.prefix or Path(self.name).name.removesuffix(".py")


def is_code(name: str) -> bool:
    """True for a module of `evaluate`, whose code runs, rather than a metric of a library."""
    return find_script(name) is not None or name not in {*LIBRARY, *TEXT_METRICS}


def _metric_faults(entry: MetricConfig, *, judges_texts: bool) -> Iterator[str]:
    """Yield what is wrong with a metric of a library, before any library is imported."""
    name = entry.name
    if is_code(name):
        return
    if judges_texts:
        if name not in TEXT_METRICS:
            yield f"{name} is for labels or numbers; {nearest(name, TEXT_METRICS)}"
        else:
            yield from text_setting_faults(name, entry.settings)
    elif name not in LIBRARY:
        yield f"{name} is for texts; {nearest(name, LIBRARY)}"
    else:
        yield from setting_faults(name, entry.settings)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping | MetricConfig) else value


MetricList = Annotated[
    list[str | MetricConfig],
    BeforeValidator(_as_list, json_schema_input_type=str | MetricConfig | list[str | MetricConfig]),
]


class ExtraMetricsConfig(TaskConfig):
    """The key of a task that can measure more than its own metrics."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"metrics"})
    code_keys: ClassVar[frozenset[str]] = TaskConfig.code_keys | {"metrics"}
    prediction_keys: ClassVar[frozenset[str]] = frozenset({"metrics"})

    judges_texts: ClassVar[bool] = False
    """True if predictions are texts, rather than labels or numbers."""

    metrics: MetricList = []  # noqa: RUF012 - pydantic copies it
    """Metrics to compute besides the task's own: names such as f1 or wer, paths of modules of
    `evaluate`, or one of both with settings: {name: f1, average: macro}.
    """

    @field_validator("metrics")
    @classmethod
    def _have_known_settings(cls, metrics: list[str | MetricConfig]) -> list[str | MetricConfig]:
        for entry in metrics:
            named = MetricConfig(name=entry) if isinstance(entry, str) else entry
            for fault in _metric_faults(named, judges_texts=cls.judges_texts):
                raise ValueError(fault)
        return metrics

    @property
    def metric_code(self) -> list[str]:
        return [each.name for each in self.extra_metrics if is_code(each.name)]

    @property
    def extra_metrics(self) -> list[MetricConfig]:
        """The entries of `metrics`, each with its settings."""
        return [MetricConfig(name=e) if isinstance(e, str) else e for e in self.metrics]


class OwnMetricsConfig(TaskConfig):
    """The key of a task that measures its own metrics only, on every evaluation."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"metrics"})
    measured: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that are always measured."""

    metrics: list[str] = []  # noqa: RUF012 - pydantic copies it
    """Metrics that must be measured; those of this task always are, and others are refused."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _are_measured(cls, metrics: Any) -> Any:
        metrics = [metrics] if isinstance(metrics, str | Mapping) else metrics
        for entry in metrics if isinstance(metrics, list) else ():
            name = entry.get("name") if isinstance(entry, Mapping) else entry
            if name not in cls.measured or name != entry:
                raise ValueError(
                    f"{name} is not computed for this task, which measures its own metrics on "
                    f"every evaluation; {nearest(str(name), cls.measured)}"
                )
        return metrics
