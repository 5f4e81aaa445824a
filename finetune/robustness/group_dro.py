"""Group distributionally robust optimization (group DRO; Sagawa et al. 2020, arXiv:1911.08731).

The loss of a step is the mean of its groups' mean losses under weights that grow with the loss of
their group: q <- q * exp(step size * loss), scaled to a sum of 1. A step uses the weights that the
steps before it have left, so that its gradient is a sum over samples, however they are divided into
micro-batches and processes.

Shapes: G groups.
"""

from __future__ import annotations

from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor


class KeepsWeights(Protocol):
    """State of a run that checkpoints hold."""

    group_weights: list[float]


class GroupDro:
    """Weights of the groups, kept on the device; `store` writes them to the state of the run."""

    def __init__(
        self, state: KeepsWeights, groups: int, step_size: float, accelerator: Accelerator
    ) -> None:
        self._state, self._step_size, self._accelerator = state, step_size, accelerator
        weights = state.group_weights or [1 / groups] * groups
        self.weights = torch.tensor(weights, device=accelerator.device)  # [G]
        self._losses = torch.zeros_like(self.weights)

    def begin(self) -> None:
        """Forget the losses of an unfinished step."""
        self._losses.zero_()

    def add(self, group: int, loss: Tensor) -> None:
        """Add a part of the mean loss of a group in this step."""
        self._losses[group] += loss.detach()

    def update(self) -> None:
        """Move weight to the groups with a high loss in this step, over all processes."""
        losses = self._losses
        if self._accelerator.num_processes > 1:
            losses = self._accelerator.reduce(losses, "sum")
        # Under fp16, an update with an infinite loss is skipped, and so is that of the weights.
        losses = torch.where(losses.isfinite(), losses, 0.0)
        logits = self.weights.log() + self._step_size * losses
        # A group that is never the worst keeps a trace of weight, with which it can come back.
        self.weights = torch.log_softmax(logits, 0).clamp(min=-50.0).exp()
        self.begin()

    def store(self) -> None:
        """Write the weights to the state of the run, for a checkpoint."""
        self._state.group_weights = self.weights.tolist()
