"""Feature extraction: the backbone stays as it is, and only the head is trained."""

from __future__ import annotations

from finetune.config.schema import FrozenConfig
from finetune.errors import ModelError
from finetune.methods.base import Method
from finetune.model import TransferModel, train_parts


class Frozen(Method):
    """Only the head is trained, on features that are computed once where the network allows it."""

    name = "frozen"
    trains_pretrained = False

    def __init__(self, config: FrozenConfig) -> None:
        self.config = config
        self.contrastive_steps = config.contrastive

    def apply(self, model: TransferModel) -> list[str]:
        if not model.heads:
            raise ModelError(
                "method=frozen leaves nothing to train: this network has no new head; "
                "use method=lora, partial or full"
            )
        if self.contrastive_steps and not model.cacheable:
            raise ModelError(
                "method.contrastive compares the vectors that the head reads, and this head reads "
                "more than one vector a row; use task.head=pooled, or leave it out"
            )
        train_parts(model, len(model.blocks))
        if self.solves_head and not (self.caches_features and model.cacheable):
            raise ModelError(
                "method.solver=exact works on cached features, which this run has none of; "
                "use method.cache=auto with a head on one vector (task.head=pooled), "
                "or method.solver=loop"
            )
        return []

    def train_mode(self, model: TransferModel) -> None:
        """Evaluation mode for all but the head: live features are those that a cache would hold."""
        model.eval()
        for name in model.heads:
            model.network.get_submodule(name).train()

    @property
    def caches_features(self) -> bool:
        return self.config.cache == "auto"

    @property
    def solves_head(self) -> bool:
        return self.config.solver == "exact"
