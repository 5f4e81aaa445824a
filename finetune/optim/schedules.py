"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch

from finetune.config.schema import OptimConfig


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def logged_rate(optimizer: torch.optim.Optimizer, config: OptimConfig) -> float:
    """Return the current rate of groups that peak at optim.lr, or the head's if it trains alone."""
    groups = optimizer.param_groups
    at_lr = [group for group in groups if group["peak_lr"] == config.lr]
    not_head = [group for group in groups if group["peak_lr"] != config.head_lr]
    return float(max(group["lr"] for group in at_lr or not_head or groups))


def warmup_steps(config: OptimConfig, total: int) -> int:
    """Return the number of updates in which the learning rate rises."""
    given = config.warmup_steps
    return round(config.warmup_ratio * total) if given is None else given


def rate_factor(config: OptimConfig, step: int, total: int) -> float:
    """Return the factor on the peak learning rate for update `step` (from 0) of `total`.

    The first update after the warm-up has the peak rate, and the last one of a decaying schedule a
    rate just above 0: no update is wasted on a rate of 0.
    """
    warmup = warmup_steps(config, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    # 1 at the end of the warm-up, 1 / n on the last of the n steps after it.
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
