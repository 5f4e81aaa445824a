"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from finetune.config.schema import FullConfig
from finetune.methods.base import Method
from finetune.model import TransferModel


class Full(Method):
    """Every parameter is trained."""

    name = "full"

    def __init__(self, config: FullConfig) -> None:
        self.config = config
        self.batch_norm = config.batch_norm

    def apply(self, model: TransferModel) -> list[str]:
        model.requires_grad_(True)
        return []
