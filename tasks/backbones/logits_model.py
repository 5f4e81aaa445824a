"""Networks for text and image classification: their outputs are logits, or one number.

Shapes: B rows, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.model import Batch, TransferModel


class LogitsModel(TransferModel):
    """A network whose outputs are logits [B, C].

    Attributes:
        scale, shift: outputs are logits * scale + shift. They map the logits of a new head to the
            range of a regression's targets, and are folded into the head's last layer when the
            network is saved.
    """

    scale: float = 1.0
    shift: float = 0.0
    base: str = ""
    """Reference from which the pretrained network was loaded."""

    def logits(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self.logits(batch) * self.scale + self.shift

    def last_layer(self) -> nn.Linear:
        """Return the linear layer that computes the logits."""
        heads = [self.network.get_submodule(name) for name in self.heads]
        modules = [module for head in heads for module in head.modules()]
        return [module for module in modules if isinstance(module, nn.Linear)][-1]

    def set_scale(self, deviation: float, mean: float) -> None:
        """Scale outputs so that logits of -1..1 span one standard deviation around the mean."""
        has_bias = self.last_layer().bias is not None
        # Without a bias the mean cannot be folded in; the scale covers the typical range from 0.
        self.scale, self.shift = (deviation, mean) if has_bias else (deviation + abs(mean), 0.0)

    def consolidate(self) -> None:
        """Fold scale and shift into the last layer, so that the network alone gives the outputs."""
        layer = self.last_layer()
        with torch.no_grad():
            layer.weight.mul_(self.scale)
            if layer.bias is not None:
                layer.bias.mul_(self.scale).add_(self.shift)
        self.scale, self.shift = 1.0, 0.0
