"""The section `search` of a config: what is tried, in which order, and for how long."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, WithJsonSchema, field_validator

from finetune.cluster.cluster_config import ClusterConfig
from finetune.config.schema import checked_folder

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_STORES = ("s3", "gs", "abfs", "abfss", "hdfs", "file")
_STORE = re.compile(rf"({'|'.join(_STORES)})://.")
_DURATION = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^[0-9]*\.?[0-9]+\s*[smhd]$"},
        {"type": "null"},
    ]
}


class SearchConfig(ClusterConfig):
    """A search over values of config keys."""

    space: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """The values to try, {key: values}. values is a list, choice(a, b, ...), log(low, high),
    range(low, high) or range(low, high, step). Those of whole bounds are whole numbers.
    """
    sampler: Literal["grid", "random", "tpe", "gp", "cmaes"] | None = None
    """How the next values are chosen. grid: each combination once; random; tpe: tree-structured
    Parzen estimator; gp: Gaussian process; cmaes: covariance matrix adaptation. null: grid if the
    space has lists only, else tpe.
    """
    pruner: Literal["none", "median", "asha", "hyperband"] = "asha"
    """Which trials are stopped early, by their evaluations on the validation split. median: worse
    than the median of the earlier ones; asha: not in the best third after 1, 3, 9, ... times
    `grace` evaluations (Li et al. 2018, arXiv:1810.05934); hyperband: asha with several lengths of
    grace.
    """
    grace: PositiveInt | None = None
    """Number of evaluations that each trial has before it may be stopped early; null: those until
    the warm-up and a ninth of its steps are over.
    """
    trials: PositiveInt | None = None
    """Number of trials; null: all of a grid, else 16, or as many as `time` allows."""
    time: Annotated[float | None, WithJsonSchema(_DURATION)] = None
    """Time after which no further trial begins and running ones stop at their next evaluation, each
    time that the search is started: 90s, 30m, 2h. null: no limit.
    """
    workers: PositiveInt | None = None
    """Processes that run trials at the same time, each with its share of the GPUs; null: one, and
    with on=ray as many as the cluster has room for.
    """
    seeds: PositiveInt = 1
    """Runs per trial, with train.seed, train.seed + 1, ...; their mean ranks the trial. Trials that
    are pruned have one.
    """
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed of the sampler."""
    dir: str | None = None
    """The folder of the search; null: search/<data>-<model>."""
    storage: str | None = None
    """With on=ray, the place in an object store that machines share in place of that folder:
    s3://bucket/path, gs://bucket/path, abfss://container@account.dfs.core.windows.net/path. Results
    are fetched to that folder at the end.
    """

    @field_validator("dir")
    @classmethod
    def _is_a_folder(cls, folder: str | None) -> str | None:
        return checked_folder(folder, "set search.storage to it, with search.on=ray")

    @field_validator("storage")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        if url is not None and not _STORE.match(url):
            listed = ", ".join(_STORES[1:])
            raise ValueError(f"should be a URL such as s3://bucket/path, or of {listed}")
        return url

    @field_validator("time", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        """Convert a number with a unit to seconds."""
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([smhd])", str(value))
        if value is not None and not (match and float(match[1])):
            raise ValueError("should be a duration such as 90s, 30m or 2h")
        return match and float(match[1]) * _UNITS[match[2]]


# Keys of this section that may stand without it. The others are keys of other sections, too.
LEAVES = ("space", "sampler", "pruner", "grace", "trials", "time", "seeds")
