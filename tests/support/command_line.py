"""The command `finetune` in this process, so that tests can capture its output."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from finetune.cli.main import main


def finetune(*words: str) -> int:
    """Run a command and return its exit code. Unexpected exceptions propagate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["finetune", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
    code = caught.value.code
    return code if isinstance(code, int) else 0


def launch(script: str, processes: int, *words: str) -> None:
    """Run a Python script with arguments in several CPU processes, as a launcher does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    try:
        assert [process.wait(600) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()
