"""A network of timm whose maps of strides 8, 16 and 32 feed a feature pyramid (Lin et al. 2017,
arXiv:1612.03144).

The network keeps its own names, less what lies behind its last map, so that weights, stages and
LoRA find what they know.

Shapes: B images, H, W pixels, C channels of a map, F channels of the pyramid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from finetune.errors import ModelError

STRIDES = (8, 16, 32)
"""Of the maps that the pyramid reads."""
PYRAMID_STRIDES = (*STRIDES, 64)
"""Of the pyramid's levels; the last one is pooled."""
_PROBE = 64  # pixels of the side of the picture by which the strides are found


@dataclass(frozen=True)
class Maps:
    """Which of a network's intermediate maps have the strides, and how many channels they have."""

    indices: tuple[int, ...]
    channels: tuple[int, ...]


class Pyramid(nn.Module):
    """Images [B, 3, H, W] -> {"0": [B, F, H/8, W/8], "1", "2", "pool": [B, F, H/64, W/64]}.

    Attributes:
        body: the pretrained network of timm, cut behind its last map.
        fpn: the new layers on its maps.
        out_channels: F, as torchvision's detectors ask for it.
    """

    def __init__(self, body: Any, width: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        found = find_maps(body, size)
        body.prune_intermediate_layers(list(found.indices), prune_norm=True, prune_head=True)
        self.body = body
        self.indices = found.indices
        self.fpn = FeaturePyramidNetwork(list(found.channels), width, LastLevelMaxPool())
        self.out_channels = width

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """What the pyramid reads: {"0": [B, C0, H/8, W/8], "1", "2"}."""
        found = self.body.forward_intermediates(
            images, indices=list(self.indices), intermediates_only=True
        )
        return {str(place): each for place, each in enumerate(found)}

    def merge(self, maps: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
        """The levels of the pyramid from a backbone's maps."""
        levels: OrderedDict[str, Tensor] = self.fpn(OrderedDict(maps))
        return levels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.merge(self.maps(images))


def find_maps(network: Any, size: tuple[int, int] | None = None) -> Maps:
    """The last map of each stride, found by a small forward pass; `size` (H, W) for a network that
    takes no other. Raises ModelError if a stride is missing.
    """
    height, width = size or (_PROBE, _PROBE)
    images = torch.zeros(1, 3, height, width)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            found = network.forward_intermediates(images, intermediates_only=True)
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"model.name: this network gives no maps of {height} x {width} pixels ({error}); "
            "take a convolutional network or a pyramid transformer of timm, such as "
            "timm/resnet18 or timm/convnext_tiny"
        ) from error
    finally:
        network.train(training)
    last = {height // each.shape[-2]: (n, each.shape[1]) for n, each in enumerate(found)}
    missing = [stride for stride in STRIDES if stride not in last]
    if missing:
        raise ModelError(
            f"model.name: this network has no map of stride {_listed(missing)} (it has "
            f"{_listed(sorted(last))}), so it makes no pyramid; take a convolutional network or a "
            "pyramid transformer, such as timm/resnet18, or a checkpoint of a detector"
        )
    chosen = [last[stride] for stride in STRIDES]
    return Maps(tuple(n for n, _ in chosen), tuple(channels for _, channels in chosen))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
