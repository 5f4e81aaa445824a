"""(IA)3 (Liu et al. 2022, arXiv:2205.05638): learned vectors that rescale activations, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from finetune.config.schema import BatchNorm, MethodConfig
from finetune.methods import adapter_layers as layers
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.model import TransferModel, train_parts

if TYPE_CHECKING:
    import peft

_REASON = "vectors that start at 1 and are few take a large rate"


class Ia3Config(MethodConfig):
    """Vectors that rescale activations are trained, and the head (Liu et al. 2022,
    arXiv:2205.05638).
    """

    name: Literal["ia3"] = "ia3"
    targets: list[str] | None = None
    """Names of layers, or their endings, whose outputs are rescaled; null: keys, values and what
    follows the activation of a feed-forward layer where peft knows them, else all layers that the
    network offers.
    """
    feedforward: list[str] | None = None
    """Names of layers among the targets, or their endings, whose inputs are rescaled in place of
    their outputs; null: those that peft knows for this network.
    """
    batch_norm: BatchNorm = "freeze"
    """Whether BatchNorm moves its averages; freeze: those of the pretrained network are kept."""


class Ia3(Method):
    """Vectors beside layers of the network, and the head, are trained."""

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
    trains_pretrained = False
    adapter = "(IA)3 adapter"
    keeps_rate_when_large = True
    sharding_fault = "method=ia3 trains a few small vectors, of which there is little to split"

    def apply(self, model: TransferModel) -> list[str]:
        train_parts(model, len(model.blocks))
        targets, feedforward = self._choose(model)
        layers.inject(self._peft_config(targets, feedforward), model, (".ia3_l.",))
        count = sum(p.numel() for name, p in model.network.named_parameters() if ".ia3_l." in name)
        return [
            f"(IA)3: {count:,} parameters rescale {len(targets) - len(feedforward)} outputs and "
            f"{len(feedforward)} inputs of layers"
        ]

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Vectors start at 1: decay would pull them to 0, which switches a layer off."""
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
        """The layers that are rescaled, and those of them whose inputs are."""
        from peft.utils import constants

        network: Any = model.network
        kind = getattr(getattr(network, "config", None), "model_type", "")
        offered = layers.chosen_targets(model, None, self.name)
        known = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, [])
        usual = [name for name in offered if _ends(name, known)]
        targets = usual or offered
        if self.config.targets is not None:
            targets = layers.chosen_targets(model, self.config.targets, self.name)
        if self.config.feedforward is not None:
            wanted = dict.fromkeys(self.config.feedforward)
            return targets, list(layers.by_layer("method.feedforward", wanted, targets))
        inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, [])
        return targets, [name for name in targets if _ends(name, inner)]

    def _peft_config(
        self, targets: list[str], feedforward: list[str], **facts: Any
    ) -> peft.IA3Config:
        import peft

        return peft.IA3Config(
            target_modules=layers.exactly(targets),
            feedforward_modules=layers.exactly(feedforward),
            **facts,
        )


def _ends(name: str, endings: list[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
