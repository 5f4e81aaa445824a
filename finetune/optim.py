"""From groups of parameters to an optimizer; the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from finetune.config import OptimConfig
from finetune.errors import ConfigError, FinetuneError, nearest
from finetune.sharding import is_split

# Of those of timm: what needs another package or a second backward pass, and what a checkpoint
# cannot hold, since it keeps lists of tensors and draws from a generator of its own.
EXCLUDED = ["fused*", "bnb*", "lookahead*", "adahessian", "kron*"]


def check_optimizer(name: str) -> None:
    """Raise ConfigError if there is no optimizer of this name."""
    if name in ("adamw", "sgd"):
        return
    from timm.optim import list_optimizers

    names = {*list_optimizers(exclude_filters=EXCLUDED), "adamw", "sgd"}
    if name not in names:
        raise ConfigError(f"optim.name: {name!r} is no optimizer; {nearest(name, names)}")


def build_optimizer(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over `groups`, each of which gives its own rate and weight decay.

    AdamW is Loshchilov & Hutter 2019 (arXiv:1711.05101), with one fused kernel a step; SGD is with
    momentum.
    """
    assert groups, "a method leaves something to train"
    lr = max(group["lr"] for group in groups)
    if config.name == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    elif config.name == "sgd":
        # The fused kernel is not known to tensors that are split among processes.
        is_whole = not any(is_split(parameter) for group in groups for parameter in group["params"])
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=is_whole)
    else:
        from timm.optim import create_optimizer_v2

        optimizer = create_optimizer_v2(
            groups, opt=config.name, lr=lr, weight_decay=config.weight_decay
        )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of all that an optimizer holds; its groups name theirs under "names"."""
    return [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["names"], group["params"], strict=True)
    ]


def trained_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the parameters that an optimizer holds."""
    return {name for name, _ in trained_parameters(optimizer)}


@torch.no_grad()
def penalize(weights: Iterable[nn.Parameter], strength: float) -> None:
    """Add the gradient of `strength` times the L1 norm of some weights to theirs."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad.add_(weight.sign(), alpha=strength)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def told_rate(optimizer: torch.optim.Optimizer, config: OptimConfig) -> float:
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


class FiniteGuard:
    """Keeps a gradient that is not finite from reaching the weights.

    On a CPU, and for optimizers without a fused kernel, `check` raises before the update. A fused
    optimizer on a CUDA device is told to skip the update on the device instead, and every one after
    it, until `confirm` raises on a step that logs: no step waits for the host. (Kernels of other
    devices do not all heed that.) Under a loss scaler the scaler's own skips are normal, and are
    counted.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, scaled: bool, device: torch.device
    ) -> None:
        self.optimizer = optimizer
        self.scaled = scaled
        self.deferred = device.type == "cuda" and bool(optimizer.defaults.get("fused"))
        self.found: torch.Tensor | None = None

    def check(self, norm: torch.Tensor, step: int) -> None:
        """Take the L2 norm of the whole gradient into account before update `step`."""
        bad = ~torch.isfinite(norm)
        if self.scaled:
            self.found = bad.float() if self.found is None else self.found + bad.float()
            return
        if not self.deferred:
            self._raise_if(bool(bad), step)
            return
        self.found = bad.float() if self.found is None else torch.maximum(self.found, bad.float())
        self.optimizer.found_inf = self.found  # type: ignore[attr-defined]  # read by fused kernels, as GradScaler sets it

    def confirm(self, step: int) -> int:
        """Raise if an update was skipped on the device; how many the loss scaler has skipped since
        it was asked last.
        """
        if self.scaled:
            skipped = 0 if self.found is None else int(self.found)
            self.found = None
            return skipped
        self._raise_if(self.found is not None and bool(self.found > 0), step)
        return 0

    def _raise_if(self, bad: bool, step: int) -> None:
        if bad:
            raise FinetuneError(
                f"step {step}: the gradient is not finite; the weights are as they were before it, "
                "and the last checkpoint is good. Lower optim.lr, lengthen optim.warmup_steps, or "
                "set train.precision=fp32"
            )
