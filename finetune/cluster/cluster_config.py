"""The keys that say where a command runs and what each of its processes has there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from finetune.config.loading import section_faults
from finetune.config.schema import Section
from finetune.config.yaml import split_overrides
from finetune.data.source import STANDARD_INPUT, Source
from finetune.errors import ConfigError, raise_for_faults
from finetune.io.references import refuse_url

PARQUET = ".parquet"
INSTALL = "pip install 'finetune-kit[ray]'"


class ClusterConfig(Section):
    """Machines that share the work of a command."""

    on: Literal["ray"] | None = None
    """Where the work runs. ray: on all machines of a Ray cluster; null: on this one."""
    cpus: PositiveInt | None = None
    """With on=ray, the CPUs and the threads of each process; null: the threads that a process on
    this machine has, so that results are equal.
    """
    gpus: Annotated[float, Field(ge=0, le=1)] | None = None
    """With on=ray, the share of a GPU that each process has; null: 1 if the cluster has GPUs."""
    workers: PositiveInt | None = None
    """Processes at the same time; null: as many as the cluster has room for."""


def take_cluster_keys(words: Sequence[str]) -> tuple[ClusterConfig, list[str]]:
    """Split words of a command line into the keys of the cluster and all others.

    Raises ConfigError.
    """
    names = ClusterConfig.model_fields
    own = [word for word in words if word.partition("=")[0] in names and "=" in word]
    config = _cluster_config(split_overrides(own), "command line")
    return config, [word for word in words if word not in own]


def take_cluster_values(keys: Mapping[str, Any]) -> tuple[ClusterConfig, dict[str, Any]]:
    """Split the keywords of a call into those of the cluster and all others. Raises ConfigError."""
    own = ClusterConfig.model_fields.keys() & keys
    config = _cluster_config({key: keys[key] for key in own}, "call")
    return config, {key: value for key, value in keys.items() if key not in own}


def _cluster_config(values: Mapping[str, Any], place: str) -> ClusterConfig:
    faults = section_faults("", ClusterConfig, values, place)
    raise_for_faults(f"the {place}", [fault.removeprefix(".") for fault in faults])
    config = ClusterConfig(**values)
    check_ray(config)
    raise_for_faults(f"the {place}", list(idle_keys(config, "", "cpus", "gpus", "workers")))
    return config


def check_ray(config: ClusterConfig) -> None:
    """Raise ConfigError if the machines of a Ray cluster are asked for, and Ray is missing."""
    if config.on is not None and find_spec("ray") is None:
        raise ConfigError(f"on=ray: Ray is not installed; run on every machine: {INSTALL}")


def idle_keys(config: ClusterConfig, prefix: str, *keys: str) -> Iterator[str]:
    """Yield a fault for each of the keys that is set but has an effect only on a cluster."""
    for key in keys:
        if config.on is None and getattr(config, key) is not None:
            yield f"{prefix}{key}: has no effect without {prefix}on=ray; add it, or leave it out"


def check_cluster_input(source: Source) -> None:
    """Raise ConfigError for rows that machines cannot share."""
    if source.reference == STANDARD_INPUT:
        raise ConfigError("on=ray: machines cannot share standard input; name a file or a folder")


def check_cluster_output(output: Path | None) -> None:
    """Raise ConfigError if an output is neither a Parquet file nor a folder for parts."""
    if output is None or output.suffix not in (PARQUET, ""):
        raise ConfigError(
            f"{'-o: missing' if output is None else f'-o {output}'}; on=ray writes Parquet: name a "
            f"{PARQUET} file, or a folder for a file of each block, which suits many rows"
        )
    refuse_url(output)
    if output.suffix or not output.exists():
        return
    inside = [output.name] if output.is_file() else [path.name for path in output.iterdir()]
    if others := [name for name in sorted(inside) if not fnmatch(name, f"part-*{PARQUET}")]:
        raise ConfigError(f"-o {output}: contains {others[0]}; name a new folder")
