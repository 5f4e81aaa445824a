"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch

from finetune.config.schema import OptimConfig


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def logged_rate(optimizer: torch.optim.Optimizer, config: OptimConfig) -> float:
    """The rate at this step that began as optim.lr; where only a head is trained, the head's."""
    groups = optimizer.param_groups
    begun = [group for group in groups if group["peak_lr"] == config.lr]
    others = [group for group in groups if group["peak_lr"] != config.head_lr]
    return float(max(group["lr"] for group in begun or others or groups))


def rate_factor(config: OptimConfig, step: int, total: int) -> float:
    """The share of the peak learning rate at which update `step` (from 0) of `total` is made.

    The first update after a warm-up of W steps has the whole rate, and the last one of a falling
    schedule the smallest rate above 0: no update is wasted on a rate of 0.
    """
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    # 1 at the end of the warm-up, 1 / n at the last of the n steps after it.
    left = (total - step) / max(total - warmup, 1)
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "wsd":
            return min(1.0, (total - step) / max(config.decay_ratio * total, 1.0))
