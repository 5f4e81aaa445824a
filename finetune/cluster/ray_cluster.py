"""Connection to a Ray cluster, and the share of its machines that each process of a command has.

Ray connects to the cluster in $RAY_ADDRESS, else to the one that runs on this machine, else it
starts one here for the time of the command.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import finetune
from finetune.cluster.cluster_config import ClusterConfig, check_ray
from finetune.distributed.launch import keep_freed_memory, this_process
from finetune.errors import ConfigError, DataError, format_count
from finetune.reporting.console import Console

_LIBRARIES = ("torch", "transformers", "datasets")
_OBJECT_STORE = 200 * 2**20  # bytes: only names and counts cross machines


@dataclass(frozen=True)
class Workplace:
    """What a process on another machine takes over from the command.

    Attributes:
        folder: the working directory, to which names of files may be relative.
        shared: a file or folder that the command has written, for a check that machines share it;
            None if they need not.
        versions: of the kit and of the libraries that compute.
    """

    folder: Path
    shared: Path | None
    threads: int
    gpus: float
    versions: Mapping[str, str]

    def enter(self) -> None:
        """Make this process one of the command.

        Raises ConfigError if the machine has other versions, DataError without the shared folder.
        """
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all GPUs visible
        machine = socket.gethostname()
        for name, here in library_versions().items():
            if here != self.versions[name]:
                raise ConfigError(
                    f"on=ray: the machine {machine} has {name} {here}, and the command "
                    f"{self.versions[name]}; install the same version on all machines"
                )
        shared = [] if self.shared is None else [self.folder, self.folder / self.shared]
        for path in shared:
            if not path.exists():
                raise DataError(
                    f"on=ray: {path} is missing on the machine {machine}; start the command in a "
                    "folder that all machines have under the same name"
                )
        if self.folder.exists():
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        keep_freed_memory()


def library_versions() -> dict[str, str]:
    """Return the versions of the kit and of the libraries on which results depend."""
    return {"finetune-kit": finetune.__version__, **{name: version(name) for name in _LIBRARIES}}


@dataclass(frozen=True)
class RayCluster:
    """A cluster that the command is connected to.

    Attributes:
        slots: processes that it has room for at the same time.
    """

    cpus: int
    gpus: float
    slots: int
    nodes: int

    def workplace(self, shared: Path | None) -> Workplace:
        return Workplace(Path.cwd(), shared, self.cpus, self.gpus, library_versions())

    def describe(self) -> str:
        each = format_count(self.cpus, "CPU") + (f" and {self.gpus:g} of a GPU" * bool(self.gpus))
        processes = format_count(self.slots, "process", "es")
        return f"Ray, {format_count(self.nodes, 'machine')}, up to {processes} with {each} each"


@contextmanager
def connected(config: ClusterConfig, console: Console) -> Iterator[RayCluster]:
    """Connect to a cluster, or start one on this machine, and disconnect at the end.

    Raises ConfigError if it cannot be reached or has no room for a single process.
    """
    check_ray(config)
    if this_process().num_processes > 1:
        raise ConfigError("on=ray: start the command without a launcher; Ray starts its processes")
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _connect()
    try:
        cluster = _measure(config, [node for node in ray.nodes() if node["Alive"]])
        console.facts({"cluster": cluster.describe()})
        yield cluster
    finally:
        if not was_connected:
            ray.shutdown()


def _connect() -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the kit sends no telemetry
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    try:
        ray.init(address or "auto", **quiet)
    except (ConnectionError, ValueError) as error:
        if address:
            raise _unreachable(address, error) from error
        ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)


def _check_reachable(address: str) -> None:
    """Raise ConfigError if no process listens at an address: Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigError:
    reason = str(error).partition("\n")[0]
    return ConfigError(
        f"RAY_ADDRESS={address}: no cluster can be reached there ({reason}); correct it, or start "
        "the cluster with `ray start`"
    )


def _measure(config: ClusterConfig, nodes: list[dict[str, Any]]) -> RayCluster:
    """Return the share of each process and the number of processes that the nodes hold."""
    resources = [node["Resources"] for node in nodes]
    has_gpus = any(each.get("GPU") for each in resources)
    cpus = config.cpus or torch.get_num_threads()
    gpus = float(has_gpus) if config.gpus is None else config.gpus
    if gpus and not has_gpus:
        raise ConfigError(f"gpus={gpus:g}: no machine of the cluster has a GPU; leave it out")
    room = [_room(each, cpus, gpus) for each in resources]
    if not any(room):
        most = max((int(each.get("CPU", 0)) for each in resources), default=0)
        raise ConfigError(
            f"cpus={cpus}: no machine of the cluster offers as many (the largest has {most}); set "
            f"cpus={max(most, 1)} or fewer"
        )
    return RayCluster(cpus, gpus, min(sum(room), config.workers or sum(room)), len(nodes))


def _room(resources: dict[str, float], cpus: int, gpus: float) -> int:
    """Return the number of processes that a machine with these resources holds."""
    of_cpus = int(resources.get("CPU", 0) // cpus)
    if not gpus:
        return of_cpus
    # A process needs its share from a single GPU.
    return min(of_cpus, int(resources.get("GPU", 0)) * int(1 / gpus + 1e-9))
