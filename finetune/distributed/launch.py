"""The processes of a run, as Accelerate starts them: one CPU, one GPU, many of either."""

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

from finetune.distributed.precision import MIXED
from finetune.errors import ConfigError

TRUE = ("1", "true", "yes")
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3), in bytes.
MALLOC = {-3: 2**30, -1: 2**31 - 1}
# The others wait while one process writes the final model, and uploads it.
PATIENCE = timedelta(hours=4)


def this_process() -> PartialState:
    """This process among all of the run.

    Raises ConfigError if the launcher started several that do not see each other: each would train
    alone and write into the same folder.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in TRUE:
        raise ConfigError(
            "launch: accelerate was asked to shard the model; leave --use_fsdp out (or `FSDP` in "
            "its config file) and set train.shard=true"
        )
    # Without an accelerator a plain PartialState makes each of several processes rank 0 of 1.
    is_cpu = not torch.accelerator.is_available() or _asked_for_cpu()
    state = PartialState(cpu=is_cpu, timeout=PATIENCE)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != state.num_processes:
        raise ConfigError(
            f"launch: {launched} processes were started, but this one sees {state.num_processes}; "
            "on CPUs use "
            "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m finetune train ...`"
        )
    if state.device.type == "cpu" and launched == 1:
        _use_all_cores()
    return state


def make_accelerator(
    precision: str, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """An Accelerator of this precision over the processes of `this_process`.

    Trackers that write files write them into `folder`.
    """
    state = this_process()
    # A notebook may train twice: the precision of the first run would be kept otherwise.
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=MIXED[precision],
        log_with=list(trackers) or None,
        project_dir=folder,
        # Buffers are shared before evaluations; at every step that would only cost time.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Let torch choose deterministic kernels only, while this lasts.

    Raises ConfigError where a network needs an operation that has none on its device.
    """
    if not asked:
        yield
        return
    # Read when cuBLAS is first used; a workspace that is shared makes its sums depend on timing.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, tuned = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
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
        torch.backends.cudnn.benchmark = tuned


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions and devices, for run.json."""
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
    """Have glibc keep what a step frees for the next one, up to what it took at most.

    It gives large tensors back to the system, which then fills each page of the next one with
    zeros: a tenth of a step. It holds for the whole process, so only the command line, whose
    process is its own, calls this. What the environment says of the allocator (MALLOC_...) holds.
    """
    is_told = any(name.startswith("MALLOC_") for name in os.environ)
    is_cpu = not torch.accelerator.is_available() or _asked_for_cpu()
    if is_cpu and not is_told and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, size in MALLOC.items():
            library.mallopt(parameter, size)


def _use_all_cores() -> None:
    """Take the cores that `accelerate launch` leaves idle: without `--cpu` it allows a process one
    thread, also where there is no GPU to do the work.
    """
    is_launched = os.environ.get("ACCELERATE_USE_CPU") == "False"
    if is_launched and os.environ.get("OMP_NUM_THREADS") == "1":
        can_tell = hasattr(os, "sched_getaffinity")  # Linux; elsewhere a process has all cores
        allowed = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
        torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, allowed))


def _asked_for_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
