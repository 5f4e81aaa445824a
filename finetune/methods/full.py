"""Full fine-tuning: train every parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.method_configs import FullConfig
from finetune.model import TransferModel


class Full(Method):
    """Train every parameter."""

    name = "full"
    Config = FullConfig
    config: FullConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(
            5e-5,
            5e-4,
            3,
            "standard for full fine-tuning of an encoder, with 10x the rate for a new head",
        ),
        "decoder": Recipe(2e-5, 2e-4, 3, "standard for full fine-tuning of a language model"),
        "seq2seq": Recipe(
            1e-4, 1e-3, 3, "T5 takes 1e-4 to 3e-4 with AdamW, and BART the lower end of that"
        ),
        "cnn": Recipe(5e-4, 2e-3, 5, "convolutional networks take higher rates"),
        "vit": Recipe(5e-5, 5e-4, 5, "standard for full fine-tuning of a vision transformer"),
        "detector": Recipe(5e-4, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(5e-5, 5e-4, 20, NEW_CLASSES),
    }

    def apply(self, model: TransferModel) -> list[str]:
        model.requires_grad_(True)
        return []
