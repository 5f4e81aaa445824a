"""Encoders of timm with a light decoder: masked and denoising autoencoders.

Shapes: B images, C channels, H, W pixels, F features of a cell, P, Q cells of the last map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.errors import ModelError
from tasks.backbones.seams import recorded_calls
from tasks.backbones.vision_models import (
    HeightWidth,
    adaptable_layers,
    timm_stages,
    vision_network_kind,
)
from tasks.pretraining.pixel_models import READ, PixelModel

DECODER_FILE = "decoder.safetensors"
WIDEST, NARROWEST = 256, 32  # channels of the decoder, which halve with every doubling of the side


class PixelDecoder(nn.Module):
    """Feature maps [B, F, P, Q] -> images [B, C, H, W], by convolutions between doublings.

    With a code, the map is first reduced to [B, code]. Its norms do not mix the images of a batch.
    """

    def __init__(
        self, shape: tuple[int, int, int], size: HeightWidth, channels: int, code: int | None
    ) -> None:
        super().__init__()
        features, rows, columns = shape
        stride = size[0] // rows
        width = WIDEST
        self.shape = (width, rows, columns)
        self.reduce: nn.Module = nn.Conv2d(features, width, 1)
        if code is not None:
            self.reduce = nn.Sequential(
                nn.Flatten(),
                nn.Linear(features * rows * columns, code),
                nn.Linear(code, width * rows * columns),
            )
        steps: list[nn.Module] = []
        while stride % 2 == 0:
            narrower = max(width // 2, NARROWEST)
            steps += [
                nn.Conv2d(width, 4 * narrower, 3, padding=1),
                nn.PixelShuffle(2),
                nn.GroupNorm(8, narrower),
                nn.GELU(),
            ]
            width, stride = narrower, stride // 2
        last = [nn.Conv2d(width, channels * stride**2, 3, padding=1), nn.PixelShuffle(stride)]
        self.steps = nn.Sequential(*steps, *last)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.reduce(maps).reshape(-1, *self.shape)
        return self.steps(hidden)  # type: ignore[no-any-return]


class Autoencoder(nn.Module):
    """An encoder of timm without its classifier, and a decoder."""

    def __init__(self, encoder: Any, decoder: PixelDecoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def maps(self, images: Tensor) -> Tensor:
        """Compute the last feature map [B, F, P, Q] of images [B, C, H, W].

        Transformers of timm have tokens, [B, N, F] with some before the patches, or channels last.
        """
        maps: Tensor = self.encoder.forward_features(images)
        if maps.ndim == 3:
            rows, columns = self.encoder.patch_embed.grid_size
            patches = maps[:, getattr(self.encoder, "num_prefix_tokens", 0) :]
            return patches.mT.reshape(len(maps), -1, rows, columns)
        is_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
        return maps.permute(0, 3, 1, 2) if is_last else maps

    def forward(self, images: Tensor) -> Tensor:
        assert self.decoder is not None
        return self.decoder(self.maps(images))  # type: ignore[no-any-return]


class AutoencoderModel(PixelModel):
    """An autoencoder on a network of timm, which is saved as timm saves it, the decoder beside it.

    Parts of the network that its feature map does not need, such as the norm before a classifier,
    get no gradient: they are left out of training, and saved as they were.
    """

    network: Autoencoder

    def __init__(
        self, encoder: Any, size: HeightWidth, channels: int, code: int | None, base: str = ""
    ) -> None:
        network = Autoencoder(encoder)
        images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
        shape = _map_shape(network, images)
        self._unused = _take_unused(encoder, network.maps(images))
        network.decoder = PixelDecoder(shape, size, channels, code)
        heads = ["decoder"]
        blocks = [tuple(f"encoder.{name}" for name in names) for names in timm_stages(encoder, [])]
        kind = vision_network_kind(network, heads)
        super().__init__(network, heads=heads, blocks=blocks, kind=kind)
        self.base = base
        candidates = adaptable_layers(network, heads)
        with recorded_calls(network, candidates) as called:
            network(images)
        self.lora_targets = called

    def reconstruct(self, inputs: dict[str, Tensor]) -> Tensor:
        images = inputs[READ]
        if self.kind == "cnn":  # faster in this layout, above all in training
            images = images.to(memory_format=torch.channels_last)
        return self.network(images)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Save the encoder so that timm.create_model("local-dir:<folder>", pretrained=True) loads
        it, and the decoder.
        """
        assert self.network.decoder is not None
        with self._complete():
            timm.models.save_for_hf(self.network.encoder, str(folder), safe_serialization=True)
        state = {
            name: tensor.contiguous() for name, tensor in self.network.decoder.state_dict().items()
        }
        save_file(state, folder / DECODER_FILE)

    def load_decoder(self, folder: Path) -> bool:
        """Load the decoder of a folder that `save` wrote; False if it has none of this shape."""
        path, decoder = folder / DECODER_FILE, self.network.decoder
        assert decoder is not None
        state = load_file(path) if path.is_file() else {}
        shapes = [{k: v.shape for k, v in each.items()} for each in (state, decoder.state_dict())]
        if shapes[0] != shapes[1]:
            return False
        decoder.load_state_dict(state)
        return True

    @contextmanager
    def _complete(self) -> Iterator[None]:
        """Put the unused parts back inside the context."""
        for name, module in self._unused.items():
            self.network.encoder.set_submodule(name, module)
        try:
            yield
        finally:
            for name in self._unused:
                self.network.encoder.set_submodule(name, nn.Identity())


def _map_shape(network: Autoencoder, images: Tensor) -> tuple[int, int, int]:
    """Return F, P, Q for images. Raises ModelError for a network without a feature map of them."""
    height, width = images.shape[-2:]
    try:
        features, rows, columns = network.eval().maps(images).shape[1:]
    except (AttributeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"task.image_size: this network gives no feature map of {height} x {width} images "
            f"({str(error).strip().splitlines()[0]}); use a convolutional network or a vision "
            "transformer of timm, or another size"
        ) from error
    if height % rows or width % columns or height // rows != width // columns:
        raise ModelError(
            f"task.image_size: images of {height} x {width} pixels give a feature map of {rows} x "
            f"{columns}, which cannot be scaled back; use a multiple of {round(height / rows)}"
        )
    return int(features), int(rows), int(columns)


def _take_unused(encoder: nn.Module, maps: Tensor) -> dict[str, nn.Module]:
    """Replace the modules that do not contribute to feature maps; return them by their names."""
    maps.sum().backward()  # type: ignore[no-untyped-call]
    used = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    encoder.zero_grad()
    unused = dict[str, nn.Module]()
    for name, module in encoder.named_modules():
        names = [f"{name}.{each}" for each, _ in module.named_parameters()]
        is_inside = any(name.startswith(f"{other}.") for other in unused)
        if name and names and not is_inside and used.isdisjoint(names):
            unused[name] = module
    for name in unused:
        encoder.set_submodule(name, nn.Identity())
    return unused
