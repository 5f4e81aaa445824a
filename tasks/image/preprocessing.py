"""From a picture to what a network reads: size, crop, normalisation, as its own library has it.

A `Preprocessing` is learned from the network's config, kept in the task's state, and written back
into that config, so that training, validation, prediction and the exported model see alike.

Shapes: H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.io.files import write_json

INPUT = "pixel_values"  # what networks call their input, float32 [B, 3, H, W]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Pillow's numbers, which the configs of transformers hold.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TENSOR_MODES = {"nearest", "bilinear", "bicubic"}
# A picture so much longer than wide is cropped before it is resized, which would fill the memory.
_LONGEST = 8


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures.

    Attributes:
        size: (H, W) of the input.
        edge: pixels of the shorter side before the central crop to `size`; None: the whole picture
            is squeezed into `size`.
        mean, std: by channel, of pixels in 0..1.
        scale: what a pixel of 0..255 is multiplied by first.
        by_pillow: whether the network's library resizes with Pillow, as timm does: torchvision
            rounds some pixels otherwise, by one step of 255.
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
        """What `state` gave, from JSON."""
        tuples = {name: tuple(state[name]) for name in ("size", "mean", "std")}
        return cls(**{**state, **tuples})

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def adapted(self, size: int | None, crop: float | None) -> Preprocessing:
        """The same for a square input of another size, or another share in the central crop."""
        height, width = (size, size) if size else self.size
        if self.edge is None:  # all of the picture is read
            return replace(self, size=(height, width))
        share = crop or min(self.size) / self.edge
        return replace(self, size=(height, width), edge=round(min(height, width) / share))

    def squeezed(self, size: tuple[int, int] | None) -> Preprocessing:
        """The same where all of a picture is squeezed into `size`; None: into its own."""
        return replace(self, size=size or self.size, edge=None)

    @property
    def mode(self) -> str:
        """As torchvision resizes tensors, which cannot do all that Pillow can."""
        return self.interpolation if self.interpolation in _TENSOR_MODES else "bicubic"

    def fit(self, image: Tensor) -> Tensor:
        """A picture uint8 [3, H, W] of any size, in `size`."""
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
        """To (H, W), or to an H or W of the shorter side."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        if self.by_pillow:
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            mode = InterpolationMode(self.interpolation)
            return as_seen(resize(picture, size, mode, antialias=True))
        resized: Tensor = resize(image, size, InterpolationMode(self.mode), antialias=True)
        return resized

    def normalize(self, image: Tensor) -> Tensor:
        """A picture uint8 [3, H, W] as float32 around 0."""
        mean, std = self._by_channel()
        return (image.contiguous().float() * self.scale - mean) / std

    def restore(self, image: Tensor) -> Tensor:
        """What `normalize` was given, uint8 [3, H, W]: to look at."""
        mean, std = self._by_channel()
        return ((image * std + mean) / self.scale).round().clamp(0, 255).to(torch.uint8)

    def _by_channel(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, [3, 1, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return mean, std


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 [3, H, W]."""
    return as_seen(image).contiguous()


def as_seen(image: Image.Image) -> Tensor:
    """The same, colour beside colour in memory as Pillow has it: to hand it back costs nothing."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """From what timm resolves for a network: input_size, crop_pct, crop_mode, mean, std."""
    _, height, width = config["input_size"]
    squeezed = config.get("crop_mode") == "squash" and config["crop_pct"] == 1
    return Preprocessing(
        size=(height, width),
        edge=None if squeezed else int(min(height, width) / config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        by_pillow=True,
    )


def to_timm(preprocessing: Preprocessing) -> dict[str, Any]:
    """The same as keys of timm's config."""
    height, width = preprocessing.size
    edge = preprocessing.edge
    return {
        "input_size": (3, height, width),
        "crop_pct": 1.0 if edge is None else min(height, width) / edge,
        "crop_mode": "squash" if edge is None else "center",
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }


def from_processor(processor: Mapping[str, Any]) -> Preprocessing:
    """From the config of an image processor of transformers."""
    size = {name: value for name, value in (processor.get("size") or {}).items() if value}
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    short = size.get("shortest_edge")
    edge: int | None = None
    if short is None:
        final = (size["height"], size["width"])
    elif crop:
        edge, final = short, (crop["height"], crop["width"])
    else:  # ConvNeXt: small inputs are cropped, large ones squeezed
        final = (short, short)
        edge = (
            int(short / processor["crop_pct"])
            if processor.get("crop_pct") and short < 384
            else None
        )
    return Preprocessing(final, edge, **pixel_keys(processor))


def pixel_keys(processor: Mapping[str, Any]) -> dict[str, Any]:
    """How an image processor resamples, scales and normalizes, as keys of a `Preprocessing`."""
    normalizes = processor.get("do_normalize", True)
    rescales = processor.get("do_rescale", True)
    return {
        "interpolation": RESAMPLING[int(processor.get("resample") or 2)],
        "mean": tuple(processor["image_mean"]) if normalizes else (0.0, 0.0, 0.0),
        "std": tuple(processor["image_std"]) if normalizes else (1.0, 1.0, 1.0),
        "scale": processor.get("rescale_factor", 1 / 255) if rescales else 1.0,
    }


def to_processor(processor: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """The config of an image processor, with the sizes of this preprocessing."""
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
    """Write the config of an image processor, of a network of transformers, beside its weights."""
    if processor is not None:
        write_json(folder / "preprocessor_config.json", processor)
