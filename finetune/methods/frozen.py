"""Feature extraction: the backbone stays as it is, and only the head is trained."""

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
    """Only the head is trained, on features of the frozen backbone."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"cache_gib"})
    place_keys: ClassVar[frozenset[str]] = frozenset({"name", "cache_gib"})

    name: Literal["frozen"] = "frozen"
    contrastive: Annotated[int, Field(ge=0)] = 0
    """Steps in which the backbone is tuned before it is frozen, for few rows of each class: vectors
    of one class are drawn together (supervised contrastive loss, Khosla et al. 2020,
    arXiv:2004.11362). A step sees train.batch_size rows and takes the rate optim.lr.
    """
    contrastive_temperature: Annotated[float, Field(ge=0.001)] = 0.1
    """Similarities are divided by it in that loss: less of it makes near rows count for more."""
    cache: Literal["auto", "off"] = "auto"
    """Whether features are computed once and kept on disk.

    auto: where the network allows it; off: they are computed at every step.
    """
    solver: Literal["loop", "exact"] = "loop"
    """How the head is trained.

    loop: by the training loop; exact: a linear head at the optimum of its loss, with the L2
    strength by cross-validation, or 1 / rows on a backbone that was tuned on them.
    """
    views: PositiveInt = 1
    """Features cached of each row. 1: of the row as it is; more: of so many augmented views, taken
    in turn by the epochs.
    """
    cache_gib: PositiveFloat = 8
    """The most that the features of this run may take on disk, in GiB."""


_NEW_HEAD = Recipe(
    1e-3, 1e-2, 30, "a new head on fixed features: steps are cheap, and a large rate is safe"
)


class Frozen(Method):
    """Only the head is trained, on features that are computed once where the network allows it."""

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
            "features of a convolutional network are many and large, and soon overfit",
        ),
        "vit": _NEW_HEAD,
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(1e-3, 1e-3, 20, NEW_CLASSES),
    }
    trains_pretrained = False
    freezes_backbone = True
    takes_quantized = True
    sharding_fault = "method=frozen trains a small head alone, of which there is nothing to split"

    @property
    def contrastive(self) -> Contrastive | None:
        if not self.config.contrastive:
            return None
        return Contrastive(self.config.contrastive, self.config.contrastive_temperature)

    def apply(self, model: TransferModel) -> list[str]:
        if not model.heads:
            raise ModelError(
                "method=frozen leaves nothing to train: this network has no new head; "
                "use method=lora, partial or full"
            )
        if self.contrastive is not None and not model.cacheable:
            raise ModelError(
                "method.contrastive compares the vectors that the head reads, and this head reads "
                "more than one vector a row; use task.head=pooled, or leave it out"
            )
        train_parts(model, len(model.blocks))
        if self.solves_head and not (self.feature_cache is not None and model.cacheable):
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
    def feature_cache(self) -> FeatureCache | None:
        if self.config.cache != "auto":
            return None
        return FeatureCache(self.config.views, self.config.cache_gib)

    @property
    def solves_head(self) -> bool:
        return self.config.solver == "exact"
