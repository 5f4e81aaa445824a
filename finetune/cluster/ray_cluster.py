"""Connection to a Ray cluster, and the share of its machines that each process of a command has.

Ray connects to the cluster in $RAY_ADDRESS, else to the one that runs on this machine, else it
starts one here for the time of the command.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.cluster.cluster_config import ClusterConfig, check_ray
from finetune.distributed.launch import keep_freed_memory, this_process
from finetune.errors import ConfigError, DataError, format_count
from finetune.reporting.console import Console

_OBJECT_STORE = 200 * 2**20  # bytes: only names and counts cross machines


@dataclass(frozen=True)
class Workplace:
    """What a process on another machine takes over from the command.

    Attributes:
        folder: the working directory, to which names of files may be relative.
        shared: a file or folder that the command has written, for a check that machines share it.
    """

    folder: Path
    shared: Path
    threads: int
    gpus: float

    def enter(self) -> None:
        """Make this process one of the command. Raises DataError without the shared folder."""
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all GPUs visible
        for path in (self.folder, self.folder / self.shared):
            if not path.exists():
                raise DataError(
                    f"on=ray: {path} is missing on the machine {socket.gethostname()}; start the "
                    "command in a folder that all machines have under the same name"
                )
        os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        keep_freed_memory()


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

    def workplace(self, shared: Path) -> Workplace:
        return Workplace(Path.cwd(), shared, self.cpus, self.gpus)

    def describe(self) -> str:
        each = format_count(self.cpus, "CPU") + (f" and {self.gpus:g} of a GPU" * bool(self.gpus))
        processes = f"up to {format_count(self.slots, 'process')}".replace("processs", "processes")
        return f"Ray, {format_count(self.nodes, 'machine')}, {processes} with {each} each"


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
    try:
        ray.init(address or "auto", **quiet)
    except (ConnectionError, ValueError) as error:
        if address:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"RAY_ADDRESS={address}: no cluster can be reached there ({reason}); correct it, or"
                " start the cluster with `ray start`"
            ) from error
        ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)


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
