"""Feature extraction: train only a head on the frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.config.schema import MethodConfig
from finetune.errors import ModelError
from finetune.methods.base import (
    NEW_CLASSES,
    NEW_DETECTOR,
    Contrastive,
    FeatureCache,
    Method,
    Recipe,
)
from finetune.model import TransferModel, train_parts


class FrozenConfig(MethodConfig):
    """Train only the head, on features of the frozen backbone."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"cache_gib"})
    place_keys: ClassVar[frozenset[str]] = frozenset({"name", "cache_gib"})

    name: Literal["frozen"] = "frozen"
    contrastive: Annotated[int, Field(ge=0)] = 0
    """Steps of contrastive tuning of the backbone before it is frozen, for few rows per class:
    vectors of one class are pulled together (supervised contrastive loss, Khosla et al. 2020,
    arXiv:2004.11362). Each step uses train.batch_size rows and the rate optim.lr; 0: none.
    """
    contrastive_temperature: Annotated[float, Field(ge=0.001)] = 0.1
    """Divisor of the similarities in that loss; a lower one gives more weight to near rows."""
    cache: Literal["auto", "off"] = "auto"
    """Cache of features on disk.

    auto: used where the network allows it; off: features are computed on every step.
    """
    solver: Literal["loop", "exact"] = "loop"
    """Solver for the head.

    loop: the training loop; exact: a linear head at the optimum of its loss, with the L2 strength
    from cross-validation, or 1 / rows after contrastive tuning on the same rows.
    """
    views: PositiveInt = 1
    """Views cached per row. 1: the row without augmentation; more: that many augmented views, one
    per epoch in turn.
    """
    cache_gib: PositiveFloat = 8
    """Limit on the disk space of this run's features, in GiB."""


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
    freezes_backbone = True
    takes_quantized = True
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

    @property
    def solves_head(self) -> bool:
        return self.config.solver == "exact"
