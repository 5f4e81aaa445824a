"""Partial fine-tuning: train the last blocks and the head, optionally with gradual unfreezing
(ULMFiT, Howard & Ruder 2018, arXiv:1801.06146).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from finetune.errors import ModelError
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.method_configs import PartialConfig
from finetune.model import TransferModel, train_parts

_REASON = "the last blocks tolerate a higher rate than the whole network"


class Partial(Method):
    """Train the last `blocks` blocks and the head."""

    name = "partial"
    Config = PartialConfig
    config: PartialConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(1e-4, 1e-3, 3, _REASON),
        "decoder": Recipe(5e-5, 5e-4, 3, _REASON),
        "seq2seq": Recipe(1e-4, 1e-3, 3, _REASON),
        "cnn": Recipe(5e-4, 2e-3, 5, _REASON),
        "vit": Recipe(1e-4, 1e-3, 5, _REASON),
        "detector": Recipe(5e-4, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(1e-4, 5e-4, 20, NEW_CLASSES),
    }
    _trained: int | None = None

    @property
    def sharding_fault(self) -> str:
        if self.config.unfreeze_every is None:
            return ""
        return (
            "method.unfreeze_every changes the trained weights after they are sharded; leave it out"
        )

    def apply(self, model: TransferModel) -> list[str]:
        available = len(model.blocks)
        if self.config.blocks > available:
            raise ModelError(
                f"method.blocks={self.config.blocks}: this network has only {available} blocks; "
                f"set method.blocks to at most {available}, or use method=full"
            )
        train_parts(model, available - self.config.blocks)
        self._trained = self.config.blocks
        if self.config.unfreeze_every is None or model.heads:
            return []
        return [
            "method.unfreeze_every: this network has no new head, so training starts with the last "
            "block"
        ]

    def unfreeze(self, model: TransferModel, epoch: float) -> bool:
        if self.config.unfreeze_every is None:
            return False
        # The margin absorbs rounding: epoch is a quotient of steps and may fall just short.
        stage = int(epoch / self.config.unfreeze_every + 1e-9)
        trained = min(self.config.blocks, stage if model.heads else stage + 1)
        if trained == self._trained:
            return False
        train_parts(model, len(model.blocks) - trained)
        self._trained = trained
        return True
