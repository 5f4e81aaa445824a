"""Places of an image that an output came from, by Grad-CAM.

Selvaraju et al. 2017, arXiv:1610.02391: the last feature maps, weighted by the gradient of the
output.

Shapes: B images, C channels, H, W pixels, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import ConfigError
from finetune.model import TransferModel

INSTALL = "pip install 'finetune-kit[report]'"
MOST_PREFIX_TOKENS = 16
"""Tokens of a transformer that are not places of the image: class and register tokens."""
_HEAT = np.array([217, 130, 43])  # red, green, blue


class _Reader(nn.Module):
    """The model as a function of images, as Grad-CAM calls it."""

    def __init__(self, model: TransferModel, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, images: Tensor) -> Tensor:
        return self.model({"inputs": {self.name: images}})  # type: ignore[no-any-return]


def activation_maps(
    model: TransferModel, name: str, images: Tensor, outputs: Sequence[int]
) -> np.ndarray | None:
    """Return a map [B, H, W] in 0..1 of one output for each image; None if the network has none.

    `images` is the batch's input `name`. Raises ConfigError if grad-cam is not installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ModuleNotFoundError as error:
        raise ConfigError(f"heat maps: grad-cam is not installed; {INSTALL}") from error
    images = images.to(next(model.parameters()).device)
    reader = _Reader(model, name)
    layer, shape = _last_features(model, reader, images[:1])
    if layer is None:
        return None
    arrange = _arrangement(shape, (images.shape[2], images.shape[3]))
    if arrange is None:
        return None
    with GradCAM(model=reader, target_layers=[layer], reshape_transform=arrange) as cam:
        maps: np.ndarray = cam(images, [ClassifierOutputTarget(output) for output in outputs])
    return maps


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Color the places of an image uint8 [H, W, 3] by a map [H, W] in 0..1."""
    share = 0.75 * heat[..., None]
    gray = pixels.mean(-1, keepdims=True).repeat(3, -1)
    mixed: np.ndarray = (gray * (1 - share) + _HEAT * share).round().clip(0, 255).astype(np.uint8)
    return mixed


def _last_features(
    model: TransferModel, reader: nn.Module, image: Tensor
) -> tuple[nn.Module | None, tuple[int, ...]]:
    """Return the layer with the last features of places, and the shape of its output.

    In a transformer, the first layer of the last block: only there do all tokens still reach the
    output.
    """
    prefixes = model.blocks[-1][:1] if model.kind == "vit" else [n for b in model.blocks for n in b]
    found: list[tuple[nn.Module, tuple[int, ...]]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, _, output: (
                found.append((module, tuple(output.shape))) if isinstance(output, Tensor) else None
            )
        )
        for name, module in model.network.named_modules()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    ]
    try:
        with torch.inference_mode():
            reader(image)
    finally:
        for hook in hooks:
            hook.remove()
    if model.kind == "vit":
        return next(((m, s) for m, s in found if len(s) in (3, 4)), (None, ()))
    maps = [(m, s) for m, s in found if len(s) == 4 and s[2] * s[3] > 1]
    return maps[-1] if maps else (None, ())


def _arrangement(shape: tuple[int, ...], size: tuple[int, int]) -> Callable[[Any], Any] | None:
    """Return the function that gives features [B, C, h, w]; None if they cannot be arranged."""
    if len(shape) == 4:
        is_last = shape[1] < shape[3]  # of channels, as in Swin
        return partial(torch.permute, dims=(0, 3, 1, 2) if is_last else (0, 1, 2, 3))
    for prefix in range(MOST_PREFIX_TOKENS + 1):
        places = shape[1] - prefix
        height = round(math.sqrt(places * size[0] / size[1])) if places > 0 else 0
        if height and places % height == 0 and places // height * size[0] == height * size[1]:
            return partial(_unfold, prefix=prefix, height=height)
    return None


def _unfold(tokens: Tensor, prefix: int, height: int) -> Tensor:
    """Return the tokens of places [B, prefix + h * w, C] as features [B, C, h, w]."""
    places = tokens[:, prefix:]
    return places.reshape(len(places), height, -1, places.shape[-1]).permute(0, 3, 1, 2)
