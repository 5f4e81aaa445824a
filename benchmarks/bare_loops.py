"""Our training loop and a hand-written one on the same prepared batches, each in its own process.

Both train the same network from the same weights with fused AdamW, gradients clipped to norm 1 and
a linear schedule. The hand-written loop logs and checks nothing, in a process with torch's
defaults; ours keeps freed memory, as the command line does. Both print the median of their steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.sides import compare
from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch
from finetune.distributed.launch import keep_freed_memory
from finetune.model import Batch
from finetune.task import Task
from finetune.task_parts.samples import Rng, Row, Sample
from finetune.training.loop import train_steps
from finetune.training.state import Live, Progress

CPU = torch.device("cpu")
Loss = Callable[[Any, Batch], Tensor]
"""A function (network, batch) -> mean loss."""
Seconds = tuple[float, float]
"""(wall-clock seconds, CPU seconds)"""


@dataclass(frozen=True)
class Loops:
    """A run that is ready to train on prepared batches, and what the hand-written loop needs.

    Attributes:
        live: our run, whose task gives the prepared batches out.
        batches: those of each step.
        loss: of the hand-written loop.
        precision: of the hand-written loop, fp32 or bf16.
    """

    live: Live
    batches: list[Batch]
    loss: Loss
    precision: str = "fp32"


class Prepared:
    """Mix-in for a task with prepared batches, so that only the loop is timed, not data loading."""

    batches: dict[tuple[int, ...], Batch]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        return row

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        return self.batches[tuple(sample["number"] for sample in samples)]


class Numbers:
    """A split whose rows contain only their own numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, keys: list[int]) -> list[Row]:
        return [{"number": key} for key in keys]


@dataclass
class Clock:
    """Run recorder that records only the end of each step, in wall-clock and CPU time."""

    evaluates: bool = False
    ends: list[tuple[float, float]] = field(default_factory=list)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Discard the values; computing them is part of the loop's cost."""

    def tick(self, step: int) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def evaluate(self, step: int) -> dict[str, float]:
        raise AssertionError("the benchmark does not evaluate")

    def save(self, progress: Progress) -> None:
        """Save nothing."""

    def note(self, text: str) -> None:
        print(text)

    @property
    def seconds(self) -> list[Seconds]:
        """Seconds of each step except the first, which starts workers and wraps the model."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return [(end[0] - start[0], end[1] - start[1]) for start, end in pairs]


def micro_batches_of(live: Live) -> list[MicroBatch]:
    """Return the micro-batches of all steps."""
    return [part for step in range(live.total_steps) for part in live.plan.micro_batches(step, 0)]


def batches_of(live: Live, task: Task) -> dict[tuple[int, ...], Batch]:
    """Return the batch of each step by the numbers of its rows, as a `Prepared` task has them.

    Raises ValueError if a step has several micro-batches.
    """
    parts = micro_batches_of(live)
    loaded = load_batches(live.train, task, parts, seed=0, device=CPU)
    batches = [batch for _, batch in loaded]
    if len(batches) != live.total_steps:
        raise ValueError("a step has several micro-batches, and the hand-written loop has none")
    return {part.indices: batch for part, batch in zip(parts, batches, strict=True)}


def on_prepared(live: Live, task: Task) -> Live:
    """Return the run with a `Prepared` task, whose rows are numbers."""
    return replace(live, task=task, train=replace(live.train, rows=Numbers(len(live.train))))


def compare_loops(
    set_up: Callable[[argparse.Namespace], Loops], parser: argparse.ArgumentParser, other: str
) -> None:
    """Run both loops in turn, `options.steps` steps each, and print the ratios of their steps."""
    parser.add_argument("--steps", type=int, default=24, help="of each run, the first one untimed")
    parser.add_argument("--threads", type=int, help="of torch; 1 is steadiest under other load")

    def ours(options: argparse.Namespace, folder: Path) -> dict[str, float]:
        keep_freed_memory()
        return _median(_our_steps(_ready(options).live))

    def theirs(options: argparse.Namespace, folder: Path) -> dict[str, float]:
        return _median(_hand_written_steps(_ready(options)))

    def _ready(options: argparse.Namespace) -> Loops:
        if options.threads:
            torch.set_num_threads(options.threads)
        return set_up(options)

    compare({"ours": ours, other: theirs}, parser)


def _our_steps(live: Live) -> list[Seconds]:
    clock = Clock()
    train_steps(live, Progress(), clock, None)
    return clock.seconds


def _hand_written_steps(loops: Loops) -> list[Seconds]:
    network, ours = loops.live.model.network, loops.live.optimizer.optimizer.param_groups
    named, total = dict(network.named_parameters()), loops.live.total_steps
    groups = [{**group, "params": [named[name] for name in group["names"]]} for group in ours]
    optimizer, parameters = torch.optim.AdamW(groups, fused=True), list(network.parameters())
    peaks = [group["peak_lr"] for group in optimizer.param_groups]
    clock = Clock()
    network.train()
    for step, batch in enumerate(loops.batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=loops.precision == "bf16"):
            loss = loops.loss(network, batch)
        torch.autograd.backward(loss)
        clip_grad_norm_(parameters, 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (total - step) / total
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(step)
    return clock.seconds


def _median(seconds: Sequence[Seconds]) -> dict[str, float]:
    clock, processor = (statistics.median(kind) for kind in zip(*seconds, strict=True))
    return {"clock": clock, "processor": processor}
