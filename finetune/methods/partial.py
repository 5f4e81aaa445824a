"""Partial fine-tuning: the last blocks and the head are trained, at once or one by one.

Gradual unfreezing follows Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from finetune.config.schema import BatchNorm, MethodConfig
from finetune.errors import ModelError
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.model import TransferModel, train_parts


class PartialConfig(MethodConfig):
    """The last blocks and the head are trained."""

    name: Literal["partial"] = "partial"
    blocks: PositiveInt = 2
    """How many blocks are trained, counted from the output."""
    unfreeze_every: PositiveFloat | None = None
    """Epochs until one more block is trained, beginning with the head alone, or with the last block
    where there is no new head; null: all at once.
    """
    batch_norm: BatchNorm | None = None
    """Whether BatchNorm moves its averages in the blocks that are trained; elsewhere it never does.

    null: train, but for detectors, whose batches are small.
    """


_REASON = "the last blocks take more change than the whole network"


class Partial(Method):
    """The last `blocks` blocks and the head are trained."""

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
        return "method.unfreeze_every trains other weights later than those that are split at first"

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
