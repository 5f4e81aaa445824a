"""Two sides of a comparison, each a function that runs in a process of its own, in turn A B A B."""

from __future__ import annotations

import atexit
import gc
import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.processes import measure_process

Side = Callable[[Namespace, Path], dict[str, float]]
"""Does the work in an empty folder; returns what it measured: seconds, or a quality."""
UNITS = {
    "memory": "GB",
    "whole-clock": "s",
    "whole-processor": "s",
    "first-step-clock": "s",
    "first-step": "s",
    "clock": "s",
    "processor": "s",
}
"""{figure of a side: its unit}"""


class Stopwatch:
    """Measures the clock and the processor time of this process, in seconds, until it is asked.

    In a training also `first-step` and `first-step-clock`: both from the start of the process to
    the end of the first step of an optimizer.
    """

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._start = time.perf_counter(), time.process_time()
        self._first_step: dict[str, float] = {}
        self._hook = register_optimizer_step_post_hook(self._note_step)

    def _note_step(self, *arguments: Any) -> None:
        if not self._first_step:
            clock = time.time() - psutil.Process().create_time()
            self._first_step = {"first-step-clock": clock, "first-step": time.process_time()}

    def read(self) -> dict[str, float]:
        """Return the figures."""
        self._hook.remove()
        return {
            "clock": time.perf_counter() - self._start[0],
            "processor": time.process_time() - self._start[1],
            **self._first_step,
        }


def watch_training() -> dict[str, float]:
    """Return a dict that gets the figures of the training alone when a run of this kit trains.

    As by the command line, libraries are imported without the garbage collector, which does not
    walk over them at the end either, and freed memory is kept.
    """
    from finetune.cli.options import loading_libraries

    with loading_libraries():
        import finetune.training.run as engine
    from finetune.distributed.launch import keep_freed_memory

    keep_freed_memory()
    atexit.register(gc.freeze)
    times, fit = dict[str, float](), engine.fit

    def timed_fit(*arguments: Any) -> None:
        watch = Stopwatch()
        fit(*arguments)
        times.update(watch.read())

    engine.fit = timed_fit  # type: ignore[assignment]  # all that it is given is passed on
    return times


def compare(
    sides: Mapping[str, Side],
    parser: ArgumentParser,
    prepare: Callable[[Namespace], None] = lambda options: None,
) -> None:
    """Run all sides in turn, --repeats times, and print the ratios of the first to each other one.

    `prepare` writes what the sides read into `options.folder`. The figures called clock and
    processor are those of the part that a side times itself, first-step and first-step-clock those
    of its process up to the end of its first step, whole-clock, whole-processor and memory (its
    peak) those of its process.
    """
    parser.add_argument("--repeats", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--seed", type=int, default=0, help="of both sides, where they have one")
    parser.add_argument("--side", choices=list(sides), help="run one side only")
    parser.add_argument("--folder", type=Path, help="with what the sides read; default: made anew")
    options = parser.parse_args()
    if options.side is not None:
        with tempfile.TemporaryDirectory() as output:
            print(json.dumps(sides[options.side](options, Path(output))))
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        prepare(options)
        command = [*this_command(), "--folder", str(options.folder), "--side"]
        for _ in range(options.repeats):
            for side, figures in results.items():
                figures.append(_run([*command, side]))
                print(f"{side}: {_describe(figures[-1])}", flush=True)
    ours, *others = results
    for other in others:
        for figure, unit in UNITS.items():
            if all(figure in run for run in (*results[ours], *results[other])):
                print(_ratio(figure, unit, ours, results[ours], other, results[other]))


def this_command() -> list[str]:
    """Return the command that runs this process's module again with the same arguments."""
    module = sys.modules["__main__"].__spec__
    assert module is not None, "run benchmarks as modules: python -m benchmarks.NAME"
    return [sys.executable, "-m", module.name, *sys.argv[1:]]


def _run(command: list[str]) -> dict[str, float]:
    """Run one side; add the figures of its whole process to its own. Exits if it fails."""
    whole, printed = measure_process(command)
    return {
        "whole-clock": whole.clock,
        "whole-processor": whole.processor,
        "memory": whole.memory,
        **json.loads(printed.splitlines()[-1]),
    }


def _describe(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _ratio(figure: str, unit: str, ours: str, mine: Any, other: str, theirs: Any) -> str:
    """Return a ratio of medians in words."""
    one, two = (median(run[figure] for run in runs) for runs in (mine, theirs))
    return f"{figure}: {one:.4g} {unit} / {two:.4g} {unit} = {one / two:.3f} ({ours} / {other})"
