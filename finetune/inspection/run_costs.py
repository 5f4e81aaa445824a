"""Estimates of the memory and the time that a run takes on this machine.

Gradients are computed to time them, but no update is made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from finetune.batching.feature_key import block_size
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.distributed.devices import as_float32
from finetune.distributed.positional_dropout import seeded_dropout
from finetune.distributed.precision import cast_once
from finetune.errors import format_count
from finetune.inspection.expected_rows import ExpectedRows
from finetune.inspection.row_trace import build_batch
from finetune.model import Batch
from finetune.optim.optimizers import OPTIMIZERS, trained_parameters
from finetune.reporting.console import format_duration
from finetune.training.setup import Prepared, caches_features
from finetune.training.state import Live

MIB = 2**20
# Seconds of a pass on a CPU, within which one-time setup may matter.
SETUP_SECONDS = 0.5
# Steps from which the cost of an epoch is extrapolated.
SAMPLED_STEPS = 200


def estimate(prepared: Prepared, expected: ExpectedRows | None = None) -> dict[str, str]:
    """Estimate memory (weights, gradients, optimizer state), and the time of a step and the run.

    `expected` are rows that will join train.
    """
    live = prepared.live
    total = sum(p.nbytes for p in live.model.network.parameters())
    trained = sum(p.nbytes for group in live.optimizer.param_groups for p in group["params"])
    kind = OPTIMIZERS.get(live.config.optim.name)
    states = (
        f"{kind.states * trained / MIB:.1f} MiB optimizer" if kind else "plus the optimizer state"
    )
    facts = {
        "memory": f"{total / MIB:.1f} MiB weights, {trained / MIB:.1f} MiB gradients, {states}"
    }
    cost = time_steps(prepared, expected)
    if cost.peak_bytes:
        facts["memory"] += f", {cost.peak_bytes / MIB:.0f} MiB peak on the longest batch"
    rows = format_count(cost.longest_rows, "row")
    if live.train.lengths.max() > 1:
        rows += f" of {cost.longest} {live.task.views.length_unit}"
    facts["longest"] = f"{rows} take {cost.longest_seconds:.2f} s"
    times = [f"{part} about {format_duration(each)}" for part, each in cost.parts.items()]
    facts["time"] = "\n".join(times)
    return facts


@dataclass(frozen=True)
class Cost:
    """Timings of the longest micro-batch on this machine, and estimates for the whole run.

    Attributes:
        longest: length of its longest row.
        longest_rows: its number of rows.
        longest_seconds: time of one pass over it.
        peak_bytes: peak GPU memory of that pass; 0 on a CPU.
        parts: estimates, {"training, 100 steps:": seconds, ...}.
        evaluation_seconds: estimate of one evaluation, which is one of the parts; 0 where features
            are cached.
        once_seconds: the parts that later runs on the same rows do not take.
    """

    longest: int
    longest_rows: int
    longest_seconds: float
    peak_bytes: int
    parts: dict[str, float]
    evaluation_seconds: float
    once_seconds: float

    def total(self, evaluations: int) -> float:
        """Estimate the seconds of a run with this number of evaluations."""
        return sum(self.parts.values()) + (evaluations - 1) * self.evaluation_seconds


def time_steps(prepared: Prepared, expected: ExpectedRows | None = None) -> Cost:
    """Time the longest micro-batch; extrapolate the run from the padded lengths of the others."""
    live = prepared.live
    cached = caches_features(live)
    steps = min(live.plan.steps_per_epoch, SAMPLED_STEPS)
    micro_batches = [
        p
        for step in range(steps)
        for p in live.plan.micro_batches(step, live.accelerator.process_index)
    ]
    if cached:
        micro_batches = blocks_by_length(live.train.lengths, block_size(live.accelerator.device))
    longest = max(micro_batches, key=lambda micro_batch: _padded(live, micro_batch))
    if live.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(live, longest, backward=not cached)
    peak = torch.cuda.max_memory_allocated() if live.accelerator.device.type == "cuda" else 0
    unit = seconds / _padded(live, longest)
    forward = unit if cached else _seconds(live, longest, backward=False) / _padded(live, longest)

    held_out = sum(int(split.lengths.sum()) for split in prepared.held_out) * forward
    all_steps = live.total_steps if expected is None else expected.steps
    training = f"training, {format_count(all_steps, 'step')}:"
    once = 0.0
    if cached:
        every = (live.train, *prepared.held_out)
        once = unit * sum(int(split.lengths.sum()) for split in every)
        once += unit * (0 if expected is None else expected.length)
        parts = {
            "features, computed once and cached:": once,
            training: all_steps * _head_seconds(live),
        }
    else:
        epoch = (
            unit * sum(_padded(live, p) for p in micro_batches) * live.plan.steps_per_epoch / steps
        )
        epochs = live.total_steps / live.plan.steps_per_epoch
        parts = {training: epoch * epochs}
        parts["one evaluation of the held-out rows:"] = held_out
    if (tuned := live.method.contrastive) is not None:
        batch = live.config.train.batch_size * float(live.train.lengths.mean())
        # A backward pass costs about twice a forward pass.
        parts[f"contrastive tuning, {tuned.steps} steps:"] = 3 * forward * tuned.steps * batch
    length = int(live.train.lengths[list(longest.indices)].max())
    evaluation = 0.0 if cached else held_out
    return Cost(length, len(longest.indices), seconds, peak, parts, evaluation, once)


def _padded(live: Live, micro_batch: MicroBatch) -> int:
    """Return the compute cost of a micro-batch, padding included."""
    return live.task.cost(live.train.lengths[list(micro_batch.indices)].tolist())


def _seconds(live: Live, micro_batch: MicroBatch, *, backward: bool) -> float:
    """Time a pass in train mode."""
    return _time(live, build_batch(live, micro_batch), backward=backward)


def _head_seconds(live: Live) -> float:
    """Time a step of a head on cached features; 0 for one that is solved exactly."""
    if live.method.solves_head:
        return 0.0
    batch = build_batch(live, live.plan.micro_batches(0, live.accelerator.process_index)[0])
    with torch.inference_mode(), live.accelerator.autocast():
        features = live.model.features(batch["inputs"])
    # Copies outside of inference mode, which may take part in a backward pass.
    batch["features"] = {name: values.float().clone() for name, values in features.items()}
    return _time(live, batch, backward=True)


def _time(live: Live, batch: Batch, *, backward: bool) -> float:
    """Time a pass as the loop makes it: with its dropout, frozen weights cast once.

    A short one is made twice, since the first may include one-time setup; the shorter time counts.
    """
    device, config = live.accelerator.device, live.config.train
    live.method.train_mode(live.model)
    trained = [parameter for _, parameter in trained_parameters(live.optimizer)]
    matmul = bool(config.matmul_attention)
    times = list[float]()
    with cast_once(live.model, live.accelerator.mixed_precision, trained):
        while not times or (len(times) < 2 and _has_setup(device, times[0])):
            _wait(device)
            start = time.perf_counter()
            dropout = seeded_dropout(device, (config.seed, 0), matmul_attention=matmul)
            with dropout, torch.set_grad_enabled(backward):
                with live.accelerator.autocast():
                    outputs = as_float32(live.model(batch))
                loss = torch.stack(list(live.task.loss(outputs, batch).values())).sum()
                if backward:
                    loss.backward()  # type: ignore[no-untyped-call]
            _wait(device)
            times.append(time.perf_counter() - start)
            live.optimizer.zero_grad()
    return min(times)


def _has_setup(device: torch.device, seconds: float) -> bool:
    return device.type != "cpu" or seconds < SETUP_SECONDS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
