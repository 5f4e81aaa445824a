"""A command in a process of its own: what it printed, how long it took and how much memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Figures(NamedTuple):
    """Processor seconds, seconds by the clock, and peak resident memory in GB."""

    processor: float
    clock: float
    memory: float


def measure_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[Figures, str]:
    """Run a command at the root of the project; return its figures and what it printed.

    The figures include its child processes, the peak is that of the largest one. Exits with the
    command's errors if it fails.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            env=None if environment is None else os.environ | dict(environment),
            stdout=output,
            stderr=errors,
            cwd=ROOT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        clock = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        if status:
            sys.exit(f"{' '.join(command)}\n{errors.read()}")
        processor = usage.ru_utime + usage.ru_stime
        return Figures(processor, clock, usage.ru_maxrss * 1024 / 1e9), output.read()
