"""Feature extraction: train only a head on the frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from finetune.errors import ModelError
from finetune.methods.base import (
    NEW_CLASSES,
    NEW_DETECTOR,
    Contrastive,
    FeatureCache,
    Method,
    Recipe,
)
from finetune.methods.method_configs import FrozenConfig
from finetune.model import TransferModel, train_parts

_NEW_HEAD = Recipe(
    1e-3, 1e-2, 30, "a new head on frozen features trains cheaply and tolerates a high rate"
)


class Frozen(Method):
    """Train only the head, on features that are computed once where the network allows it."""

    name = "frozen"
    Config = FrozenConfig
    config: FrozenConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": _NEW_HEAD,
        "decoder": _NEW_HEAD,
        "seq2seq": _NEW_HEAD,
        "cnn": Recipe(
            5e-4,
            5e-4,
            30,
            "CNN features are high-dimensional and large, so the head overfits quickly",
        ),
        "vit": _NEW_HEAD,
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(1e-3, 1e-3, 20, NEW_CLASSES),
    }
    sharding_fault = (
        "method=frozen trains only a small head, so sharding saves nothing; use method=lora"
    )

    @property
    def contrastive(self) -> Contrastive | None:
        if not self.config.contrastive:
            return None
        return Contrastive(self.config.contrastive, self.config.contrastive_temperature)

    def apply(self, model: TransferModel) -> list[str]:
        if not model.heads:
            raise ModelError(
                "method=frozen: nothing to train, since this network has no new head; "
                "use method=lora, partial or full"
            )
        if self.contrastive is not None and not model.cacheable:
            raise ModelError(
                "method.contrastive needs a head that reads one vector per row, but this one reads "
                "more; use task.head=pooled, or leave method.contrastive out"
            )
        train_parts(model, len(model.blocks))
        if self.solves_head and not (self.feature_cache is not None and model.cacheable):
            raise ModelError(
                "method.solver=exact needs cached features, which this run does not have; "
                "use method.cache=auto with a head on one vector (task.head=pooled), "
                "or method.solver=loop"
            )
        return []

    def train_mode(self, model: TransferModel) -> None:
        """Put all but the head in evaluation mode, so that features equal those in a cache."""
        model.eval()
        for name in model.heads:
            model.network.get_submodule(name).train()

    @property
    def feature_cache(self) -> FeatureCache | None:
        if self.config.cache != "auto":
            return None
        return FeatureCache(self.config.views, self.config.cache_gib)
