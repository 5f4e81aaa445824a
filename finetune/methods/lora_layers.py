"""Which layers LoRA adapts, by their names or their last words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from finetune.errors import ModelError, nearest
from finetune.model import TransferModel

_Value = TypeVar("_Value")


def chosen_targets(model: TransferModel, wanted: list[str] | None) -> list[str]:
    """The layers to adapt: all that the network offers, or those that `wanted` names.

    A wanted name is a layer's whole name or its last words. Raises ModelError if no layer has it.
    """
    if not model.lora_targets:
        raise ModelError(
            "method=lora finds no layer to adapt in this network; "
            "use method=frozen, partial or full"
        )
    if wanted is None:
        return model.lora_targets
    return list(by_layer("method.targets", dict.fromkeys(wanted), model.lora_targets))


def by_layer(key: str, wanted: Mapping[str, _Value], layers: Sequence[str]) -> dict[str, _Value]:
    """{whole name of a layer: value} from {name or its last words: value}; the last one holds.

    Raises ModelError if no layer has a wanted name.
    """
    found: dict[str, _Value] = {}
    for ending, value in wanted.items():
        matches = [name for name in layers if name == ending or name.endswith("." + ending)]
        if not matches:
            endings = {name.rpartition(".")[2] for name in layers}
            raise ModelError(
                f"{key}: no layer that LoRA can adapt is called {ending!r}; "
                f"{nearest(ending, endings)}"
            )
        found |= dict.fromkeys(matches, value)
    return found
