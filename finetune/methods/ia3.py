"""(IA)3 (Liu et al. 2022, arXiv:2205.05638): learned vectors that rescale activations, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from finetune.methods import adapter_layers as layers
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.method_configs import Ia3Config
from finetune.model import TransferModel, train_parts

if TYPE_CHECKING:
    import peft

_REASON = "(IA)3 vectors are few and start at 1, so they take a high rate"


class Ia3(Method):
    """Train vectors that rescale the activations of frozen layers, and the head."""

    name = "ia3"
    Config = Ia3Config
    config: Ia3Config
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(1e-2, 3e-3, 3, _REASON),
        "decoder": Recipe(5e-3, 3e-3, 3, _REASON),
        "seq2seq": Recipe(5e-3, 3e-3, 3, _REASON),
        "cnn": Recipe(2e-2, 5e-3, 5, _REASON),
        "vit": Recipe(1e-2, 3e-3, 5, _REASON),
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(1e-3, 1e-3, 20, NEW_CLASSES),
    }
    adapter = "(IA)3 adapter"
    keeps_rate_when_large = True
    sharding_fault = (
        "method=ia3 trains few small vectors, so sharding saves little; use method=lora"
    )

    def apply(self, model: TransferModel) -> list[str]:
        train_parts(model, len(model.blocks))
        targets, feedforward = self._choose(model)
        layers.inject(self._peft_config(targets, feedforward), model, (".ia3_l.",))
        count = sum(p.numel() for name, p in model.network.named_parameters() if ".ia3_l." in name)
        return [
            f"(IA)3: {count:,} parameters rescale the outputs of {len(targets) - len(feedforward)} "
            f"layers and the inputs of {len(feedforward)}"
        ]

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """True except for (IA)3 vectors, which start at 1: decay to 0 would switch layers off."""
        return ".ia3_l." not in name and super().decays(name, parameter)

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        import peft

        named = list(model.network.named_modules())
        targets = [name for name, module in named if layers.is_adapted(module)]
        inputs = [name for name, module in named if getattr(module, "is_feedforward", False)]
        facts = {"modules_to_save": model.heads or None} | model.adapter_config()
        config = self._peft_config(targets, inputs, **facts)
        layers.save(config, peft.get_peft_model_state_dict(model.network), model, folder)
        return True

    def merge(self, model: TransferModel) -> None:
        layers.merge(model)

    def _choose(self, model: TransferModel) -> tuple[list[str], list[str]]:
        """Return all layers to rescale, and those of them whose inputs are rescaled."""
        from peft.utils import constants

        network: Any = model.network
        kind = getattr(getattr(network, "config", None), "model_type", "")
        offered = layers.chosen_targets(model, None, self.name)
        known = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, [])
        defaults = [name for name in offered if _ends(name, known)]
        targets = defaults or offered
        if self.config.targets is not None:
            targets = layers.chosen_targets(model, self.config.targets, self.name)
        if self.config.feedforward is not None:
            wanted = dict.fromkeys(self.config.feedforward)
            return targets, list(layers.match_layers("method.feedforward", wanted, targets))
        inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, [])
        return targets, [name for name in targets if _ends(name, inner)]

    def _peft_config(
        self, targets: list[str], feedforward: list[str], **facts: Any
    ) -> peft.IA3Config:
        import peft

        return peft.IA3Config(
            target_modules=layers.exact_pattern(targets),
            feedforward_modules=layers.exact_pattern(feedforward),
            **facts,
        )


def _ends(name: str, endings: list[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
