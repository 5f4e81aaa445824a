"""Parts that a task may have: export to ONNX, and embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.config.schema import ModelConfig

if TYPE_CHECKING:  # readers of data and configs use these parts without torch
    from torch import Tensor

    from finetune.model import TransferModel


def _as_logits(outputs: Any) -> dict[str, Tensor]:
    return {"logits": outputs}


@dataclass(frozen=True)
class Onnx:
    """Settings of the ONNX export of a task's networks.

    Attributes:
        axes: names of the leading dynamic axes of every input, such as ("batch", "length").
        outputs: function that maps the model's outputs to the exported tensors, {name: [B, ...]}.
            If it returns several, they describe the same items [B, N, ...], such as boxes and their
            scores, and are compared with PyTorch's regardless of the order of the items.
    """

    axes: tuple[str, ...]
    outputs: Callable[[Any], dict[str, Tensor]] = field(default=_as_logits)


@dataclass(frozen=True)
class Embedder:
    """Settings for embedding rows with a pretrained network, without labels.

    Attributes:
        build: function that loads the network, whose `features` give one vector per row, and the
            tokenizer or transform. Raises ModelError if the network has no such vector.
    """

    build: Callable[[ModelConfig], TransferModel]
