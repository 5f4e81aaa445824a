"""Processes of a run, as Accelerate launches them: one or many, on CPUs or GPUs."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState

from finetune.distributed.devices import core_count
from finetune.distributed.precision import MIXED_PRECISION
from finetune.errors import ConfigError

TRUE = ("1", "true", "yes")
# {parameter of mallopt(3): bytes}: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
MALLOPT = {-3: 2**30, -1: 2**31 - 1}
# Other processes wait this long while the main one writes and uploads the final model.
COLLECTIVE_TIMEOUT = timedelta(hours=4)


def this_process() -> PartialState:
    """Return the state of this process among all processes of the run.

    Raises ConfigError if the launcher started several processes that are not connected: each would
    train alone and write into the same folder.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in TRUE:
        raise ConfigError(
            "launch: accelerate is configured to shard the model; leave --use_fsdp out (or `FSDP` "
            "in its config file) and set train.shard=true"
        )
    # On a CPU-only machine, PartialState without cpu=True makes every process rank 0 of 1.
    is_cpu = not torch.accelerator.is_available() or _asked_for_cpu()
    state = PartialState(cpu=is_cpu, timeout=COLLECTIVE_TIMEOUT)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != state.num_processes:
        raise ConfigError(
            f"launch: {launched} processes were started, but this one sees only "
            f"{state.num_processes}; on CPUs use "
            "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m finetune train ...`"
        )
    if state.device.type == "cpu" and launched == 1:
        _use_all_cores()
    return state


def make_accelerator(
    precision: str, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """Return an Accelerator with this precision, over the processes of `this_process`.

    Trackers write their files to `folder`.
    """
    state = this_process()
    # A second run in one notebook would otherwise inherit the precision of the first.
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=MIXED_PRECISION[precision],
        log_with=list(trackers) or None,
        project_dir=folder,
        # Buffers are broadcast before evaluations; doing so on every step would only cost time.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Restrict torch to deterministic kernels for the duration of the context.

    Raises ConfigError for an operation without a deterministic kernel on its device.
    """
    if not enabled:
        yield
        return
    # Read when cuBLAS is first used: with a shared workspace, its sums depend on timing.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ConfigError(f"train.deterministic: {error}; leave the key out") from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Collect versions and devices, for run.json."""
    import datasets
    import transformers

    return {
        "python": platform.python_version(),
        "platform": platform.system(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees for the next step.

    By default it returns large tensors to the system, which zeroes every page of the next one: a
    tenth of a step. The setting is process-wide, so only the command line, which owns its process,
    calls this. MALLOC_... environment variables take precedence.
    """
    is_configured = any(name.startswith("MALLOC_") for name in os.environ)
    is_cpu = not torch.accelerator.is_available() or _asked_for_cpu()
    if is_cpu and not is_configured and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, size in MALLOPT.items():
            library.mallopt(parameter, size)


def _use_all_cores() -> None:
    """Use all physical cores under `accelerate launch` without `--cpu`.

    The launcher sets one thread per process, even on machines without a GPU.
    """
    is_launched = os.environ.get("ACCELERATE_USE_CPU") == "False"
    if is_launched and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, core_count()))


def _asked_for_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
