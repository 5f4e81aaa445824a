"""Optimizers by name, built from parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from finetune.config.schema import OptimConfig
from finetune.distributed.fsdp import is_dtensor
from finetune.errors import ConfigError, nearest

Groups = list[dict[str, Any]]


class OptimizerKind(NamedTuple):
    """A built-in optimizer.

    Attributes:
        build: (config, groups, largest rate) -> optimizer.
        states: state tensors per parameter, each of the parameter's size.
        shards: True if updating a shard of a weight equals updating the whole (train.shard).
    """

    build: Callable[[OptimConfig, Groups, float], torch.optim.Optimizer]
    states: int
    shards: bool = False


def _adamw(config: OptimConfig, groups: Groups, lr: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), in one fused kernel per step."""
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _sgd(config: OptimConfig, groups: Groups, lr: float) -> torch.optim.Optimizer:
    """SGD with momentum."""
    # DTensors have no fused SGD kernel.
    is_whole = not any(is_dtensor(parameter) for group in groups for parameter in group["params"])
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=is_whole)
    if is_whole and config.momentum:
        optimizer.register_step_pre_hook(_fill_momentum)
    return optimizer


def _fill_momentum(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Give parameters that are trained from now on a buffer of 0, from which momentum starts.

    The fused kernel fails if only some parameters of a group have one.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


OPTIMIZERS = {
    "adamw": OptimizerKind(_adamw, states=2, shards=True),
    "sgd": OptimizerKind(_sgd, states=1, shards=True),
}
"""Built-in optimizers by name; any other name is looked up in `timm.optim`."""
# Not supported from timm: optimizers that need another package or a second backward pass, and
# those whose state (lists of tensors, a random generator of their own) a checkpoint cannot hold.
EXCLUDED = ["fused*", "bnb*", "lookahead*", "adahessian", "kron*"]


def check_optimizer(name: str) -> None:
    """Raise ConfigError for an unknown optimizer."""
    if name in OPTIMIZERS:
        return
    from timm.optim import list_optimizers

    names = {*list_optimizers(exclude_filters=EXCLUDED), *OPTIMIZERS}
    if name not in names:
        raise ConfigError(f"optim.name: unknown optimizer {name!r}; {nearest(name, names)}")


def build_optimizer(config: OptimConfig, groups: Groups) -> torch.optim.Optimizer:
    """Build the optimizer over `groups`, each with its own learning rate and weight decay."""
    assert groups, "a method always trains something"
    lr = max(group["lr"] for group in groups)
    if config.name in OPTIMIZERS:
        optimizer = OPTIMIZERS[config.name].build(config, groups, lr)
    else:
        from timm.optim import create_optimizer_v2

        optimizer = create_optimizer_v2(
            groups, opt=config.name, lr=lr, weight_decay=config.weight_decay
        )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Return (name, parameter) for all parameters of an optimizer, from its groups' "names"."""
    return [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["names"], group["params"], strict=True)
    ]


def trained_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """Return the names of all parameters of an optimizer."""
    return {name for name, _ in trained_parameters(optimizer)}


@torch.no_grad()
def add_l1_gradient(weights: Iterable[nn.Parameter], strength: float) -> None:
    """Add the gradient of an L1 penalty of this strength to the weights' gradients."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad.add_(weight.sign(), alpha=strength)
