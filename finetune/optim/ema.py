"""Exponential moving average of the weights, evaluated and saved in their place.

Buffers, such as BatchNorm statistics, are not averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune.distributed.fsdp import local_shard
from finetune.errors import CheckpointError


class Ema:
    """Averages of the parameters that an optimizer trains, by name."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self._decay = decay
        self._live = dict(named)
        self._averages = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages with the weights after update `step`, counted from 1.

        The decay is capped at (1 + step) / (10 + step) early on, or the initial weights would
        dominate a short run.
        """
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, average in self._averages.items():
            average.lerp_(self._live[name], share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averages into the network for the duration of the context."""
        backup = {name: value.detach().clone() for name, value in self._live.items()}
        self.copy_to_network()
        try:
            yield
        finally:
            self._put(backup)

    def copy_to_network(self) -> None:
        """Copy the averages into the network for good."""
        self._put(self._averages)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages, for a checkpoint."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], place: str) -> None:
        """Restore what `tensors` returned. Raises CheckpointError for averages of other weights."""
        if tensors.keys() != self._averages.keys():
            raise CheckpointError(
                f"{place}: its averages (optim.ema) are of other weights than this run trains; "
                "use --fresh"
            )
        for name, value in tensors.items():
            self._averages[name].copy_(local_shard(value, self._averages[name]))

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)
