"""Segmentation networks as TransferModels: a timm encoder with a decoder of
segmentation-models-pytorch (smp), and the semantic-segmentation networks of transformers.

Shapes: B images, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError
from finetune.model import Batch, TransferModel
from tasks.backbones.pretrained import quiet_transformers
from tasks.backbones.seams import (
    encoder_stages,
    find_blocks,
    has_parameters,
    input_channels,
    recorded_calls,
)
from tasks.backbones.vision_models import adaptable_layers, vision_network_kind
from tasks.image import tiles
from tasks.image.preprocessing import INPUT

STRIDE = 32
"""Inputs are padded to a multiple of it, as networks downsample by at most 2**5."""


class SegmentationModel(TransferModel):
    """A network whose outputs are logits [B, K, H, W] of the size of its input.

    A list of images [3, H, W] of different sizes is processed in overlapping windows; the outputs
    are then a list of logits [K, H, W].

    Attributes:
        base: hub id or folder of the pretrained network.
        size: (H, W) of the training inputs.
        pads: True if inputs of that size are padded too; those of other sizes always are.
        tile: (H, W) of the windows in pixels.
        overlap: overlap of the windows in pixels.
    """

    base: str = ""
    size: tuple[int, int]
    pads: bool = True
    tile: tuple[int, int] = (512, 512)
    overlap: int = 0

    def forward(self, batch: Batch) -> Any:
        if "features" in batch:
            features = batch["features"]
            count = len(next(iter(features.values())))
            if self._needs_two_images(count):
                return self.decode({k: torch.cat([v, v]) for k, v in features.items()})[:count]
            return self.decode(features)
        images = batch["inputs"][INPUT]
        if not isinstance(images, Tensor):
            return [self.slide(image) for image in images]
        if self._needs_two_images(len(images)):
            return self.run(torch.cat([images, images]))[: len(images)]
        return self.run(images)

    def _needs_two_images(self, count: int) -> bool:
        """True for one training image and a head with global pooling, which BatchNorm rejects."""
        head = self.network.get_submodule(self.heads[0])
        pools = any(isinstance(module, nn.AdaptiveAvgPool2d) for module in head.modules())
        return count == 1 and head.training and pools

    def run(self, images: Tensor) -> Tensor:
        """Pad images [B, 3, H, W] of any size, and return logits [B, K, H, W] without padding."""
        height, width = images.shape[-2:]
        logits = self.logits(self._pad(images))
        return logits[..., :height, :width]

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of the size of the images, which must be a size the network accepts."""
        raise NotImplementedError

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits from cached features, of the size of their images."""
        raise NotImplementedError

    def slide(self, image: Tensor) -> Tensor:
        """Return logits [K, H, W] of an image [3, H, W], the weighted mean over its windows."""
        height, width = image.shape[-2:]
        windows = tiles.windows((height, width), self.tile, self.overlap)
        merged = total = None
        for start in range(0, len(windows), tiles.WINDOWS_AT_ONCE):
            some = windows[start : start + tiles.WINDOWS_AT_ONCE]
            crops = torch.stack(
                [image[:, top:bottom, left:right] for left, top, right, bottom in some]
            )
            logits = self.run(crops).float()  # [n, K, h, w]; sums in bfloat16 lose precision
            weight = tiles.weights((crops.shape[-2], crops.shape[-1])).to(logits)
            if merged is None or total is None:
                merged = logits.new_zeros(logits.shape[1], height, width)
                total = logits.new_zeros(height, width)
            for crop_logits, (left, top, right, bottom) in zip(logits, some, strict=True):
                merged[:, top:bottom, left:right] += crop_logits * weight
                total[top:bottom, left:right] += weight
        assert merged is not None and total is not None, "an image has at least one window"
        return merged / total

    def _pad(self, images: Tensor) -> Tensor:
        height, width = self._padded_size(images.shape[-2:])
        padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
        return self._to_memory_format(functional.pad(images, padding))

    def _padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = size
        if not self.pads and (height, width) == tuple(self.size):
            return height, width
        return height + -height % STRIDE, width + -width % STRIDE

    def _to_memory_format(self, images: Tensor) -> Tensor:
        """Convert to channels last for convolutional networks, which are faster with it."""
        return images.to(memory_format=torch.channels_last) if self.kind == "cnn" else images

    def _probe(self, size: tuple[int, int]) -> None:
        """Run the network once to find the layers that it calls: LoRA may wrap these."""
        shape = (1, input_channels(self.network), *size)
        images = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
        candidates = adaptable_layers(self.network, self.heads)
        try:
            with recorded_calls(self.network, candidates) as called:
                self.inspect_head(self._pad(images))
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(
                f"task.image_size: this network does not accept images of {size[0]} x {size[1]} "
                f"({str(error).strip().splitlines()[0]}); set another task.image_size or task.tile"
            ) from error
        self.lora_targets = called

    def inspect_head(self, images: Tensor) -> None:
        """Run one forward pass to find the feature maps that the head reads."""
        raise NotImplementedError

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


def _encoder_of(network: Any) -> tuple[nn.Module, str]:
    """Return the encoder of a network of smp and its name; smp wraps those of timm."""
    inner = getattr(network.encoder, "model", None)
    return (network.encoder, "encoder") if inner is None else (inner, "encoder.model")


class SmpModel(SegmentationModel):
    """A network of smp: encoder, decoder and segmentation_head.

    Its cacheable features are the levels of the encoder's pyramid that the decoder reads.
    """

    network: Any

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        heads = ["decoder", "segmentation_head"]
        super().__init__(
            network,
            heads=heads,
            blocks=encoder_stages(*_encoder_of(network)),
            kind=vision_network_kind(network, heads),
        )
        self.size = size
        self._shapes: list[tuple[int, ...]] = []
        self._read: list[int] = []
        self._probe(size)

    @property
    def cacheable(self) -> bool:
        return True

    def logits(self, images: Tensor) -> Tensor:
        return self._head(self.network.encoder(images))

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        levels = self.network.encoder(self._pad(inputs[INPUT]))
        return {f"level{index}": levels[index] for index in self._read}

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(features.values()))
        # The decoder uses only the shapes of the other levels.
        levels = [
            self._to_memory_format(features[f"level{index}"])
            if index in self._read
            else some.new_zeros(1).expand(len(some), *shape)
            for index, shape in enumerate(self._shapes)
        ]
        return self._head(levels)[..., : self.size[0], : self.size[1]]

    def _head(self, levels: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.network.segmentation_head(self.network.decoder(list(levels)))
        return logits

    def inspect_head(self, images: Tensor) -> None:
        levels = self.network.encoder(images)
        self._shapes = [tuple(level.shape[1:]) for level in levels]
        self._read = []
        for index, level in enumerate(levels):
            # A level is read if NaN in it reaches the output.
            spoiled = [*levels[:index], torch.full_like(level, torch.nan), *levels[index + 1 :]]
            if level.numel() and self.network.decoder(spoiled).isnan().any():
                self._read.append(index)

    def save(self, folder: Path) -> None:
        """Write the network in the format of smp.from_pretrained."""
        self.network.save_pretrained(folder)


class TransformersSegmenter(SegmentationModel):
    """A semantic-segmentation network of transformers with its own head.

    Its features are cacheable if the head reads a list of feature maps.
    """

    network: Any

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        if getattr(network, "auxiliary_head", None) is not None:
            # Its loss is not computed here, so it would get no gradient.
            network.auxiliary_head = None
            network.config.use_auxiliary_head = False
        body = {network.base_model_prefix, "backbone"}
        heads = [
            name
            for name, child in network.named_children()
            if name not in body and has_parameters(child)
        ]
        blocks = find_blocks(network, heads)
        super().__init__(
            network, heads=heads, blocks=blocks, kind=vision_network_kind(network, heads)
        )
        self.size = size
        self._levels: int | None = None
        # transformers does not pad, and attention would attend to padding.
        self.pads = False
        try:
            self._probe(size)
        except ModelError:
            self.pads = True
            self._probe(size)
        self._unused = self._find_unused()

    def _find_unused(self) -> list[nn.Parameter]:
        """Return the parameters that the logits do not depend on.

        An example is the last norm of a backbone whose feature maps are read before it.
        """
        images = self._pad(torch.zeros(2, 3, *self.size))
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        training = self.network.training
        logits = self.network.eval()(pixel_values=images).logits
        gradients = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
        self.network.train(training)
        pairs = zip(trained, gradients, strict=True)
        return [parameter for parameter, gradient in pairs if gradient is None]

    @property
    def cacheable(self) -> bool:
        return self._levels is not None

    def logits(self, images: Tensor) -> Tensor:
        logits = self.network(pixel_values=images).logits
        for parameter in self._unused:  # DDP waits for the gradient of every parameter
            logits = logits + 0 * parameter.sum()
        return self._upsample(logits, images.shape[-2:])

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        levels = self._head_input(self._pad(inputs[INPUT]))
        return {f"level{index}": level for index, level in enumerate(levels)}

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        assert self._levels is not None
        logits = self._head(tuple(features[f"level{index}"] for index in range(self._levels)))
        logits = self._upsample(logits, self._padded_size(self.size))
        return logits[..., : self.size[0], : self.size[1]]

    def inspect_head(self, images: Tensor) -> None:
        logits = self.network(pixel_values=images).logits
        if len(self.heads) == 1:
            levels = self._head_input(images)
            if levels and all(isinstance(level, Tensor) for level in levels):
                # Some networks upsample the outputs of their head themselves.
                again = self._upsample(self._head(tuple(levels)), logits.shape[-2:])
                self._levels = len(levels) if torch.allclose(again, logits, atol=1e-6) else None

    def _head(self, levels: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = self.network.get_submodule(self.heads[0])(levels)
        return logits

    def _head_input(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps that the head reads; () if its input is not a list of them."""
        captured: list[Any] = []
        head = self.network.get_submodule(self.heads[0])
        handle = head.register_forward_pre_hook(lambda _, inputs: captured.extend(inputs[:1]))
        try:
            self.network(pixel_values=images)
        finally:
            handle.remove()
        return captured[0] if captured and isinstance(captured[0], list | tuple) else ()

    def _upsample(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)
