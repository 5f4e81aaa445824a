"""An exponential moving average of the weights, which is evaluated and saved in their place.

Buffers, the averages of BatchNorm among them, stay those of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune.distributed.fsdp import share_of
from finetune.errors import CheckpointError


class Ema:
    """The averages of what an optimizer trains, by name."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self._decay = decay
        self._live = dict(named)
        self._averages = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`, from 1 on.

        The decay of an early step is less, (1 + step) / (10 + step): the first weights would
        outlast a short run.
        """
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, average in self._averages.items():
            average.lerp_(self._live[name], share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the averages for its weights."""
        kept = {name: value.detach().clone() for name, value in self._live.items()}
        self.settle()
        try:
            yield
        finally:
            self._put(kept)

    def settle(self) -> None:
        """Give the network the averages for good."""
        self._put(self._averages)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], place: str) -> None:
        """Take back what `tensors` gave. Raises CheckpointError for the averages of other names."""
        if tensors.keys() != self._averages.keys():
            raise CheckpointError(f"{place}: averages other weights than this run; use --fresh")
        for name, value in tensors.items():
            self._averages[name].copy_(share_of(value, self._averages[name]))

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)
