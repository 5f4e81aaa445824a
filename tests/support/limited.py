"""Commands in child processes with bounded time, processor time and memory.

The children are forked from this process, which imports the libraries only once: hundreds of
commands take minutes. A fork copies no threads, so what starts threads, such as training, must
run in a child, too.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SECONDS = 10.0
"""Processor time of a command."""
WAIT = 60.0
"""Seconds after which a command counts as hanging; the machine may be busy with other things."""
MEMORY = 2 * 2**30
"""Bytes of memory that a command may use, in addition to those of this process."""

MOST_OUTPUT = 2**20
"""Bytes of each output; a pipe and not a file holds them, since a limit on files may apply."""


@dataclass(frozen=True)
class Outcome:
    """End of a command: its exit code (negative: the signal that ended it), output and cost."""

    code: int
    output: str
    errors: str
    seconds: float
    memory: int

    @property
    def fault(self) -> str:
        """The first thing that is wrong with the outcome; "" if nothing is."""
        if "Traceback" in self.errors + self.output:
            return "traceback"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        messages = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        if self.code == 2 and len(messages) != 1:
            return "exit code 2 without one message"
        if self.seconds > SECONDS:
            return f"{self.seconds:.0f} seconds"
        return f"{self.memory // 2**20} MiB" if self.memory > MEMORY else ""


IMPORTED = (
    *("finetune.api", "finetune.cli.main", "finetune.inspection.dry_run", "finetune.export.onnx"),
    *("finetune.inference.batch_predict", "finetune.reporting.comparison"),
    *("finetune.training.run", "finetune.training.finalize", "finetune.reporting.plots"),
    *("tasks.text_classification", "tests.support.tiny_models"),
)


def run_limited(words: list[str], stdin: str = os.devnull) -> Outcome:
    """Run the command `finetune` with these words in a child process."""
    return call_limited(lambda: run_command(words), stdin)


def run_command(words: list[str]) -> None:
    """Run the command `finetune` with these words in this process."""
    from finetune.cli.main import main

    sys.argv = ["finetune", *words]
    main()


def call_limited(action: Callable[[], object], stdin: str = os.devnull) -> Outcome:
    """Call a function in a child process. SystemExit sets its exit code, other exceptions 1."""
    for name in IMPORTED:
        import_module(name)
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]
    for _, writing in pipes:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MOST_OUTPUT)
    child = os.fork()
    if child == 0:
        _become_child(action, [writing for _, writing in pipes], stdin)
    for _, writing in pipes:
        os.close(writing)
    status, usage = _wait(child)
    texts = [_read_all(reading) for reading, _ in pipes]
    seconds = usage.ru_utime + usage.ru_stime
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = max(usage.ru_maxrss - before, 0) * 1024
    return Outcome(os.waitstatus_to_exitcode(status), texts[0], texts[1], seconds, memory)


def _read_all(reading: int) -> str:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as file:
        return file.read()


def _become_child(action: Callable[[], object], outputs: list[int], stdin: str) -> None:
    code = 1
    try:
        os.setpgrp()
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        for number, output in enumerate(outputs, start=1):
            os.dup2(output, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            action()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    """Wait for the child; end it if it hangs."""
    end = time.monotonic() + WAIT
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage
        if time.monotonic() > end:
            os.kill(child, signal.SIGALRM)
        time.sleep(0.01)
