"""A feature pyramid (Lin et al. 2017, arXiv:1612.03144) on feature maps of a timm network.

The network keeps its own names, without the layers after its last map, so that weights, stages and
LoRA can refer to them.

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
from tasks.backbones.seams import input_channels

STRIDES = (8, 16, 32)
"""Strides of the feature maps that the pyramid reads."""
PYRAMID_STRIDES = (*STRIDES, 64)
"""Strides of the pyramid's levels; the last level is pooled."""
_PROBE = 64  # side in pixels of the image with which the strides are determined


@dataclass(frozen=True)
class Maps:
    """Indices and channels of the intermediate feature maps that have the required strides."""

    indices: tuple[int, ...]
    channels: tuple[int, ...]


class Pyramid(nn.Module):
    """Images [B, 3, H, W] -> {"0": [B, F, H/8, W/8], "1", "2", "pool": [B, F, H/64, W/64]}.

    Attributes:
        body: the pretrained timm network, cut off after its last map.
        fpn: the new layers on its maps.
        out_channels: F, an attribute that torchvision's detectors require.
    """

    def __init__(self, body: Any, width: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        maps = find_maps(body, size)
        body.prune_intermediate_layers(list(maps.indices), prune_norm=True, prune_head=True)
        self.body = body
        self.indices = maps.indices
        self.fpn = FeaturePyramidNetwork(list(maps.channels), width, LastLevelMaxPool())
        self.out_channels = width

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the backbone's maps: {"0": [B, C0, H/8, W/8], "1", "2"}."""
        maps = self.body.forward_intermediates(
            images, indices=list(self.indices), intermediates_only=True
        )
        return {str(index): each for index, each in enumerate(maps)}

    def merge(self, maps: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Compute the levels of the pyramid from a backbone's maps."""
        levels: OrderedDict[str, Tensor] = self.fpn(OrderedDict(maps))
        return levels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.merge(self.maps(images))


def find_maps(network: Any, size: tuple[int, int] | None = None) -> Maps:
    """Find the last map of each stride by a small forward pass.

    `size` (H, W) is needed for a network with a fixed input size. Raises ModelError if a stride is
    missing.
    """
    height, width = size or (_PROBE, _PROBE)
    images = torch.zeros(1, input_channels(network), height, width)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            maps = network.forward_intermediates(images, intermediates_only=True)
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"model.name: this network returns no feature maps for images of {height} x {width} "
            f"pixels ({error}); use a convolutional network or a pyramid transformer of timm, such "
            "as timm/resnet18 or timm/convnext_tiny"
        ) from error
    finally:
        network.train(training)
    last = {height // each.shape[-2]: (n, each.shape[1]) for n, each in enumerate(maps)}
    missing = [stride for stride in STRIDES if stride not in last]
    if missing:
        raise ModelError(
            f"model.name: this network has no feature map of stride {_listed(missing)} (it has "
            f"{_listed(sorted(last))}), which the feature pyramid needs; use a convolutional "
            "network or a pyramid transformer, such as timm/resnet18, or a detector checkpoint"
        )
    chosen = [last[stride] for stride in STRIDES]
    return Maps(tuple(n for n, _ in chosen), tuple(channels for _, channels in chosen))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
