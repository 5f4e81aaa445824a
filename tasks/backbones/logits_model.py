"""Networks whose outputs are logits, or one number: what text and image classification train.

Shapes: B rows, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.model import Batch, TransferModel


class LogitsModel(TransferModel):
    """A network whose outputs are logits [B, C].

    Attributes:
        scale, shift: outputs are logits * scale + shift. They put a regression's targets in the
            range that a new head starts in, and are folded into the head's last layer when the
            network is saved.
    """

    scale: float = 1.0
    shift: float = 0.0
    base: str = ""
    """The reference that the pretrained network was loaded from."""

    def logits(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self.logits(batch) * self.scale + self.shift

    def last_layer(self) -> nn.Linear:
        """The linear layer that makes the logits."""
        heads = [self.network.get_submodule(name) for name in self.heads]
        modules = [module for head in heads for module in head.modules()]
        return [module for module in modules if isinstance(module, nn.Linear)][-1]

    def set_scale(self, deviation: float, mean: float) -> None:
        """Let logits of -1..1 mean one standard deviation around the mean."""
        has_bias = self.last_layer().bias is not None
        # Without a bias no mean can be folded in: logits count from 0 in typical values.
        self.scale, self.shift = (deviation, mean) if has_bias else (deviation + abs(mean), 0.0)

    def settle(self) -> None:
        """Fold scale and shift into the last layer, so that the network alone makes the outputs."""
        layer = self.last_layer()
        with torch.no_grad():
            layer.weight.mul_(self.scale)
            if layer.bias is not None:
                layer.bias.mul_(self.scale).add_(self.shift)
        self.scale, self.shift = 1.0, 0.0
