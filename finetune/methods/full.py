"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from finetune.config.schema import BatchNorm, MethodConfig
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.model import TransferModel


class FullConfig(MethodConfig):
    """Every parameter is trained."""

    name: Literal["full"] = "full"
    batch_norm: BatchNorm | None = None
    """Whether BatchNorm moves its averages; freeze: those of the pretrained network are kept; null:
    train, but for detectors, whose batches are small.
    """


class Full(Method):
    """Every parameter is trained."""

    name = "full"
    Config = FullConfig
    config: FullConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(
            5e-5,
            5e-4,
            3,
            "the usual rate for the whole of a pretrained encoder; ten times that for a new head",
        ),
        "decoder": Recipe(2e-5, 2e-4, 3, "the usual rate for the whole of a language model"),
        "seq2seq": Recipe(
            1e-4, 1e-3, 3, "T5 wants 1e-4 to 3e-4 with AdamW; BART bears the lower end"
        ),
        "cnn": Recipe(5e-4, 2e-3, 5, "convolutional networks take larger rates"),
        "vit": Recipe(5e-5, 5e-4, 5, "the usual rate for the whole of a vision transformer"),
        "detector": Recipe(5e-4, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(5e-5, 5e-4, 20, NEW_CLASSES),
    }

    def apply(self, model: TransferModel) -> list[str]:
        model.requires_grad_(True)
        return []
