"""Resizing, cropping and normalization of images, as in the network's own library.

A `Preprocessing` is read from the network's config, kept in the task's state, and written back to
that config, so that training, validation, prediction and the exported model agree.

Shapes: H, W pixels, C channels, mostly 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.io.files import write_json

INPUT = "pixel_values"  # name of the networks' input, float32 [B, C, H, W], C mostly 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Pillow's constants, which transformers configs contain.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TENSOR_MODES = {"nearest", "bilinear", "bicubic"}
# Images with a larger aspect ratio are cropped before resizing, which could run out of memory.
_LONGEST = 8


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a network's images.

    Attributes:
        size: (H, W) of the input.
        edge: pixels of the shorter side before the center crop to `size`; None: the whole image is
            stretched to `size`.
        mean, std: by channel, of pixels in 0..1.
        scale: factor that pixels of 0..255 are multiplied by first.
        by_pillow: True if the network's library resizes with Pillow, as timm does: torchvision
            rounds some pixels differently, by one step of 255.
    """

    size: tuple[int, int]
    edge: int | None
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255
    by_pillow: bool = False

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from what `state` returned."""
        tuples = {name: tuple(state[name]) for name in ("size", "mean", "std")}
        return cls(**{**state, **tuples})

    def state(self) -> dict[str, Any]:
        """Return the attributes as JSON-able values."""
        return asdict(self)

    def adapted(self, size: int | None, crop: float | None) -> Preprocessing:
        """Return a copy with a square input of another size, or another center crop."""
        height, width = (size, size) if size else self.size
        if self.edge is None:  # no crop
            return replace(self, size=(height, width))
        share = crop or min(self.size) / self.edge
        return replace(self, size=(height, width), edge=round(min(height, width) / share))

    def squeezed(self, size: tuple[int, int] | None) -> Preprocessing:
        """Return a copy that stretches the whole image to `size`; None: to its own size."""
        return replace(self, size=size or self.size, edge=None)

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return len(self.mean)

    def with_channels(self, count: int | None) -> Preprocessing:
        """Return a copy for another number of channels, each normalized by the average of all."""
        if count is None or count == self.channels:
            return self
        mean, std = (float(np.mean(values)) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * count, std=(std,) * count)

    @property
    def mode(self) -> str:
        """Interpolation mode for tensors, for which torchvision lacks some of Pillow's modes."""
        return self.interpolation if self.interpolation in _TENSOR_MODES else "bicubic"

    def fit(self, image: Tensor) -> Tensor:
        """Resize and crop an image, uint8 [C, H, W], to `size`."""
        from torchvision.transforms.v2.functional import center_crop

        if self.edge is None:
            return self._resize(image, list(self.size))
        height, width = image.shape[-2:]
        if max(height, width) > _LONGEST * min(height, width):
            longest = _LONGEST * min(height, width)
            image = center_crop(image, [min(height, longest), min(width, longest)])
        cropped: Tensor = center_crop(self._resize(image, [self.edge]), list(self.size))
        return cropped

    def _resize(self, image: Tensor, size: list[int]) -> Tensor:
        """Resize to (H, W), or the shorter side to a length."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        if self.by_pillow and self.channels in (1, 3):  # Pillow has no images of other bands
            pil_image = Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())
            mode = InterpolationMode(self.interpolation)
            return to_channels_last(resize(pil_image, size, mode, antialias=True))
        resized: Tensor = resize(image, size, InterpolationMode(self.mode), antialias=True)
        return resized

    def normalize(self, image: Tensor) -> Tensor:
        """Convert an image, uint8 [C, H, W], to float32 and normalize it."""
        mean, std = self._by_channel()
        return (image.contiguous().float() * self.scale - mean) / std

    def restore(self, image: Tensor) -> Tensor:
        """Invert `normalize`, giving uint8 [C, H, W] to look at."""
        mean, std = self._by_channel()
        return ((image * std + mean) / self.scale).round().clamp(0, 255).to(torch.uint8)

    def _by_channel(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, [C, 1, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return mean, std


def to_channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert pixels [H, W, C] to uint8 [C, H, W]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def channel_keys(preprocessing: Preprocessing) -> dict[str, int]:
    """Return the key task.channels of a network that does not read RGB, else none."""
    return {"channels": preprocessing.channels} if preprocessing.channels != 3 else {}


def to_channels_last(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 [3, H, W] in Pillow's memory layout, channels last.

    Converting it back to a PIL image then copies nothing.
    """
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Build it from timm's data config: input_size, crop_pct, crop_mode, mean, std."""
    _, height, width = config["input_size"]
    stretches = config.get("crop_mode") == "squash" and config["crop_pct"] == 1
    return Preprocessing(
        size=(height, width),
        edge=None if stretches else int(min(height, width) / config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        by_pillow=True,
    )


def to_timm(preprocessing: Preprocessing) -> dict[str, Any]:
    """Convert it to keys of timm's data config."""
    height, width = preprocessing.size
    edge = preprocessing.edge
    return {
        "input_size": (preprocessing.channels, height, width),
        "crop_pct": 1.0 if edge is None else min(height, width) / edge,
        "crop_mode": "squash" if edge is None else "center",
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }


def from_processor(processor: Mapping[str, Any]) -> Preprocessing:
    """Build it from the config of a transformers image processor."""
    size = {name: value for name, value in (processor.get("size") or {}).items() if value}
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    short = size.get("shortest_edge")
    edge: int | None = None
    if short is None:
        final = (size["height"], size["width"])
    elif crop:
        edge, final = short, (crop["height"], crop["width"])
    else:  # ConvNeXt: small inputs are cropped, large ones stretched
        final = (short, short)
        edge = (
            int(short / processor["crop_pct"])
            if processor.get("crop_pct") and short < 384
            else None
        )
    return Preprocessing(final, edge, **pixel_keys(processor))


def pixel_keys(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image processor's interpolation and normalization as keys of `Preprocessing`."""
    normalizes = processor.get("do_normalize", True)
    rescales = processor.get("do_rescale", True)
    return {
        "interpolation": RESAMPLING[int(processor.get("resample") or 2)],
        "mean": tuple(processor["image_mean"]) if normalizes else (0.0, 0.0, 0.0),
        "std": tuple(processor["image_std"]) if normalizes else (1.0, 1.0, 1.0),
        "scale": processor.get("rescale_factor", 1 / 255) if rescales else 1.0,
    }


def to_processor(processor: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the config of an image processor with the sizes of `preprocessing`."""
    height, width = preprocessing.size
    sizes: dict[str, Any] = {"size": {"height": height, "width": width}}
    if "shortest_edge" in (processor.get("size") or {}):
        edge, short = preprocessing.edge, min(height, width)
        crops = bool(processor.get("do_center_crop")) and edge is not None
        sizes = {"size": {"shortest_edge": edge if crops else short}}
        if "crop_pct" in processor and edge is not None:
            sizes["crop_pct"] = short / edge
    if processor.get("crop_size"):
        sizes["crop_size"] = {"height": height, "width": width}
    return {**processor, **sizes}


def save_processor(processor: Mapping[str, Any] | None, folder: Path) -> None:
    """Write the config of a transformers image processor, if any, to the model's folder."""
    if processor is not None:
        write_json(folder / "preprocessor_config.json", processor)
