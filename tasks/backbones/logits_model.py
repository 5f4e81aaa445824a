"""Networks for text and image classification: their outputs are logits, or one number.

Shapes: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import listed
from finetune.model import Batch, TransferModel


class LogitsModel(TransferModel):
    """A network whose outputs are logits [B, C].

    Attributes:
        scale, shift: outputs are logits * scale + shift. They map the logits of a new head to the
            range of a regression's targets, or calibrate them, and are folded into the head's last
            layer when the network is saved.
    """

    scale: float | Tensor = 1.0
    """A number, or one for each output [C]."""
    shift: float = 0.0
    keeps_head: bool = False
    """True if the head is the checkpoint's."""
    base: str = ""
    """Reference from which the pretrained network was loaded."""

    def logits(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        logits = self.logits(batch)
        # bfloat16 would round a year to a multiple of 8; the exact solver computes in float64.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits * self._scale_on(logits.device) + self.shift

    def _scale_on(self, device: torch.device) -> float | Tensor:
        return self.scale.to(device) if isinstance(self.scale, Tensor) else self.scale

    def scale_outputs(self, factors: Sequence[float]) -> None:
        self.scale = torch.tensor(factors)  # [C]

    def last_layer(self) -> nn.Linear | nn.Conv2d:
        """Return the layer that computes the logits: linear, or a convolution of 1 x 1."""
        heads = [self.network.get_submodule(name) for name in self.heads]
        modules = [module for head in heads for module in head.modules()]
        return [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)][-1]

    @property
    def outputs(self) -> int:
        """The number of logits of a row."""
        layer = self.last_layer()
        return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    def set_scale(self, deviation: float, mean: float) -> None:
        """Scale outputs so that logits of -1..1 span one standard deviation around the mean."""
        has_bias = self.last_layer().bias is not None
        # Without a bias the mean cannot be folded in; the scale covers the typical range from 0.
        self.scale, self.shift = (deviation, mean) if has_bias else (deviation + abs(mean), 0.0)
        if self.keeps_head:  # its outputs are in the unit of the targets already
            layer = self.last_layer()
            with torch.no_grad():
                layer.weight.div_(self.scale)
                if layer.bias is not None:
                    layer.bias.sub_(self.shift).div_(self.scale)

    def keep_last_layer_precise(self) -> None:
        """Compute the last layer in float32 under autocast, once scale and shift are folded in.

        Its outputs then have the unit of the targets, which bfloat16 rounds to three digits.
        """
        self.last_layer().register_forward_hook(_in_float32)

    def keep_head(self, saved: Sequence[str], names: Sequence[str]) -> None:
        """Note that the head is the checkpoint's, and sort its outputs for labels `names`.

        `saved` are the labels of the checkpoint.
        """
        self.keeps_head = True
        known = "which has the same labels"
        if sorted(saved) != sorted(names):
            known = f"whose labels are {listed(saved, 4)}"
        elif list(saved) != list(names):
            known = "which has the same labels in another order"
            order, layer = [list(saved).index(name) for name in names], self.last_layer()
            with torch.no_grad():
                layer.weight.copy_(layer.weight[order])
                if layer.bias is not None:
                    layer.bias.copy_(layer.bias[order])
        self.notes.append(f"head: kept from the checkpoint, {known}")

    def has_loaded_head(self, info: Mapping[str, Any]) -> bool:
        """True if the last layer was in the checkpoint, by transformers' loading info."""
        layer = self.last_layer()
        name = next(name for name, module in self.network.named_modules() if module is layer)
        keys = [*info["missing_keys"], *info["mismatched_keys"]]
        return f"{name}.weight" not in {key if isinstance(key, str) else key[0] for key in keys}

    def consolidate(self) -> None:
        """Fold scale and shift into the last layer, so that the network alone gives the outputs."""
        layer = self.last_layer()
        with torch.no_grad():
            scale = self._scale_on(layer.weight.device)
            shape = [-1, *[1] * (layer.weight.ndim - 1)]
            layer.weight.mul_(scale.view(shape) if isinstance(scale, Tensor) else scale)
            if layer.bias is not None:
                layer.bias.mul_(scale).add_(self.shift)
        self.scale, self.shift = 1.0, 0.0


def _in_float32(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor | None:
    """Forward hook of a linear layer or a convolution of 1 x 1: its output without autocast."""
    (values,) = inputs
    device = values.device.type
    if not torch.is_autocast_enabled(device):
        return None
    # The registered parameters: `cast_once` shadows them by copies.
    parameters = dict(layer.named_parameters())
    weight, bias = parameters["weight"], parameters.get("bias")
    with torch.autocast(device, enabled=False):
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(values.float(), weight, bias)
        return functional.linear(values.float(), weight, bias)
