"""BitFit (Ben Zaken et al. 2021, arXiv:2106.10199): train only biases, norms and the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from finetune.errors import ModelError
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.method_configs import BitFitConfig
from finetune.model import HEAD, TransferModel, named_parts

_REASON = "biases and norms are few parameters and take a high rate"


class BitFit(Method):
    """Train the 1-D pretrained parameters and the head.

    These are part of the network itself, so there is no adapter to save or merge, and `final/` is
    the whole network.
    """

    name = "bitfit"
    Config = BitFitConfig
    config: BitFitConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(1.5e-3, 2e-3, 3, _REASON),
        "decoder": Recipe(1e-3, 1e-3, 3, _REASON),
        "seq2seq": Recipe(2e-3, 2e-3, 3, _REASON),
        "cnn": Recipe(1e-2, 5e-3, 5, _REASON),
        "vit": Recipe(1.5e-3, 2e-3, 5, _REASON),
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(5e-4, 1e-3, 20, NEW_CLASSES),
    }
    keeps_rate_when_large = True
    sharding_fault = (
        "method=bitfit trains few small parameters, so sharding saves little; use method=full"
    )

    def apply(self, model: TransferModel) -> list[str]:
        count = total = 0
        for _, parameter, part in named_parts(model):
            is_vector = parameter.ndim <= 1 and part != HEAD
            parameter.requires_grad_(is_vector or part == HEAD)
            count += parameter.numel() * is_vector
            total += parameter.numel() * (part != HEAD)
        if not count:
            raise ModelError(
                "method=bitfit: this network has no biases or norms; use method=lora or full"
            )
        return [f"BitFit: {count:,} of {total:,} pretrained parameters (biases and norms)"]
