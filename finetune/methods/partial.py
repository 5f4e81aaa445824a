"""Partial fine-tuning: the last blocks and the head are trained, at once or one by one.

Gradual unfreezing follows Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146).
"""

from __future__ import annotations

from finetune.config.schema import PartialConfig
from finetune.errors import ModelError
from finetune.methods.base import Method
from finetune.model import TransferModel, train_parts


class Partial(Method):
    """The last `blocks` blocks and the head are trained."""

    name = "partial"

    def __init__(self, config: PartialConfig) -> None:
        self.config = config
        self.batch_norm = config.batch_norm
        self._trained: int | None = None

    def apply(self, model: TransferModel) -> list[str]:
        available = len(model.blocks)
        if self.config.blocks > available:
            raise ModelError(
                f"method.blocks: {self.config.blocks} blocks are to be trained, but this "
                f"network has {available}; "
                f"set method.blocks to at most {available}, or method=full"
            )
        train_parts(model, available - self.config.blocks)
        self._trained = self.config.blocks
        if self.config.unfreeze_every is None or model.heads:
            return []
        return ["method.unfreeze_every: this network has no new head, so the last block is first"]

    def unfreeze(self, model: TransferModel, epoch: float) -> bool:
        if self.config.unfreeze_every is None:
            return False
        # The margin keeps an epoch that is a rounded quotient of steps from falling just short.
        stage = int(epoch / self.config.unfreeze_every + 1e-9)
        trained = min(self.config.blocks, stage if model.heads else stage + 1)
        if trained == self._trained:
            return False
        train_parts(model, len(model.blocks) - trained)
        self._trained = trained
        return True
