"""From groups of parameters to an optimizer; the learning rate as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from finetune.config.schema import OptimConfig
from finetune.distributed.fsdp import is_split
from finetune.errors import ConfigError, nearest

Groups = list[dict[str, Any]]


class OptimizerKind(NamedTuple):
    """An optimizer of this kit.

    Attributes:
        build: (config, groups, the largest rate) -> the optimizer.
        states: tensors that it keeps for each parameter, of the parameter's size.
    """

    build: Callable[[OptimConfig, Groups, float], torch.optim.Optimizer]
    states: int


def _adamw(config: OptimConfig, groups: Groups, lr: float) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019 (arXiv:1711.05101), with one fused kernel a step."""
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _sgd(config: OptimConfig, groups: Groups, lr: float) -> torch.optim.Optimizer:
    """SGD with momentum."""
    # The fused kernel is not known to tensors that are split among processes.
    is_whole = not any(is_split(parameter) for group in groups for parameter in group["params"])
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=is_whole)


OPTIMIZERS = {"adamw": OptimizerKind(_adamw, states=2), "sgd": OptimizerKind(_sgd, states=1)}
"""The optimizers of this kit by name; any other name is one of `timm.optim`."""
# Of those of timm: what needs another package or a second backward pass, and what a checkpoint
# cannot hold, since it keeps lists of tensors and draws from a generator of its own.
EXCLUDED = ["fused*", "bnb*", "lookahead*", "adahessian", "kron*"]


def check_optimizer(name: str) -> None:
    """Raise ConfigError if there is no optimizer of this name."""
    if name in OPTIMIZERS:
        return
    from timm.optim import list_optimizers

    names = {*list_optimizers(exclude_filters=EXCLUDED), *OPTIMIZERS}
    if name not in names:
        raise ConfigError(f"optim.name: unknown optimizer {name!r}; {nearest(name, names)}")


def build_optimizer(config: OptimConfig, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer over `groups`, each of which gives its own rate and weight decay."""
    assert groups, "a method leaves something to train"
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
