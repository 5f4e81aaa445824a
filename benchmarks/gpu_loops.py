"""A hand-written loop beside the kit's, and what a GPU does: operations, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetune.model import Batch
from finetune.training.state import Live


def measured(end: int, steps: int) -> tuple[int, int]:
    """Return the steps of a block that are timed: after its workers have started."""
    return end - steps + steps // 4, end


@dataclass
class BareLoop:
    """A hand-written loop that trains the same network, on batches that are on the device."""

    live: Live
    batches: list[Batch]

    def __post_init__(self) -> None:
        groups = self.live.optimizer.optimizer.param_groups
        settings = [{"params": group["params"], "lr": group["lr"]} for group in groups]
        self.trained = [part for group in groups for part in group["params"]]
        fused = self.live.accelerator.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(settings, fused=fused)

    def run(self, start: int, steps: int) -> float:
        """Run some steps; return seconds a step, over those that are timed."""
        device = self.live.accelerator.device
        self.live.method.train_mode(self.live.model)
        first, last = measured(start + steps, steps)
        for step in range(start, last):
            if step == first:
                began = end(device)
            self.pass_through(step)
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (end(device) - began) / (last - first)

    def pass_through(self, step: int) -> None:
        """Compute the gradients of one step."""
        kind, batch = self.live.accelerator.device.type, self.batches[step]
        with torch.autocast(kind, torch.bfloat16):
            outputs = self.live.model(batch)
        sums = self.live.task.loss(outputs, batch)
        terms = [value / batch["count"][name].clamp(min=1) for name, value in sums.items()]
        torch.autograd.backward(torch.stack(terms).sum())

    def count_flops(self, step: int) -> int:
        """Count the floating-point operations of a forward and backward pass.

        Those of variable-length attention, which depend on its boundaries, are left out.
        """
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False, custom_mapping=attention_flops()) as counter:
            self.pass_through(step)
        self.optimizer.zero_grad()
        return int(counter.get_total_flops())


def attention_flops() -> dict[Any, Callable[..., int]]:
    """Return functions that count attention with fewer keys than queries, which torch's do not."""

    def forward(query: Any, key: Any, *_: Any, **__: Any) -> int:
        batch, heads, size, width = query
        return int(4 * batch * heads * size * key[2] * width)

    def backward(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
        return forward(query, key) * 5 // 2  # five products instead of two

    names = ["flash", "efficient", "cudnn"]
    ops = torch.ops.aten
    forwards = [getattr(ops, f"_scaled_dot_product_{name}_attention") for name in names]
    backwards = [getattr(ops, f"_scaled_dot_product_{name}_attention_backward") for name in names]
    return dict.fromkeys(forwards, forward) | dict.fromkeys(backwards, backward)


def begin(device: torch.device) -> float:
    """Wait for the device, forget its peak of memory, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def end(device: torch.device) -> float:
    """Wait for the device and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Return the peak of the device's memory since `begin`, in GB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0


def matrix_rate(device: torch.device) -> float:
    """Measure the floating-point operations a second of a matrix product in bf16."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 3)
    one, two = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    one @ two
    began = begin(device)
    for _ in range(repeats):
        one @ two
    return 2 * size**3 * repeats / (end(device) - began)
