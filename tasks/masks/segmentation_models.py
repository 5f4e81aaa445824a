"""Networks that class every pixel, as TransferModels: any timm encoder under a decoder of
segmentation-models-pytorch, and semantic segmentation of transformers.

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
from tasks.backbones.seams import calls_noted, encoder_stages, find_blocks, has_parameters
from tasks.backbones.vision_models import adaptable_layers, vision_network_kind
from tasks.image import tiles
from tasks.image.preprocessing import INPUT

STRIDE = 32
"""Inputs that are padded are so to a multiple of it: no network here halves its input more than
five times.
"""


class SegmentationModel(TransferModel):
    """A network over images whose outputs are logits [B, K, H, W] of the size of its input.

    Images that come as a list, each [3, H, W] of its own size, are seen through windows that
    overlap; the outputs then are a list of [K, H, W].

    Attributes:
        tile: (H, W) of the windows, and how far they overlap, in pixels.
        size: (H, W) of the inputs that it is trained on.
        pads: whether inputs of that size are padded, too; those of other sizes always are.
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
            if self._needs_company(count):
                return self.decode({k: torch.cat([v, v]) for k, v in features.items()})[:count]
            return self.decode(features)
        images = batch["inputs"][INPUT]
        if not isinstance(images, Tensor):
            return [self.slide(image) for image in images]
        if self._needs_company(len(images)):
            return self.run(torch.cat([images, images]))[: len(images)]
        return self.run(images)

    def _needs_company(self, count: int) -> bool:
        """Whether the head cannot be trained on so few images: BatchNorm refuses the one value that
        is left of a channel where an image is pooled whole.
        """
        head = self.network.get_submodule(self.heads[0])
        pools = any(isinstance(module, nn.AdaptiveAvgPool2d) for module in head.modules())
        return count == 1 and head.training and pools

    def run(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, 3, H, W] of any size: padded, and cut back."""
        height, width = images.shape[-2:]
        logits = self.logits(self._padded(images))
        return logits[..., :height, :width]

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images whose size the network takes, of the same size."""
        raise NotImplementedError

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits of images of the size that the features were computed for."""
        raise NotImplementedError

    def slide(self, image: Tensor) -> Tensor:
        """Logits [K, H, W] of an image [3, H, W]: the mean of its windows, weighted by place."""
        height, width = image.shape[-2:]
        places = tiles.windows((height, width), self.tile, self.overlap)
        joined = total = None
        for start in range(0, len(places), tiles.TOGETHER):
            some = places[start : start + tiles.TOGETHER]
            seen = torch.stack(
                [image[:, top:bottom, left:right] for left, top, right, bottom in some]
            )
            logits = self.run(seen).float()  # [n, K, h, w]; bfloat16 would lose sums
            weight = tiles.weights((seen.shape[-2], seen.shape[-1])).to(logits)
            if joined is None or total is None:
                joined = logits.new_zeros(logits.shape[1], height, width)
                total = logits.new_zeros(height, width)
            for own, (left, top, right, bottom) in zip(logits, some, strict=True):
                joined[:, top:bottom, left:right] += own * weight
                total[top:bottom, left:right] += weight
        assert joined is not None and total is not None, "an image has a window"
        return joined / total

    def _padded(self, images: Tensor) -> Tensor:
        height, width = self._padded_size(images.shape[-2:])
        padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
        return self._laid_out(functional.pad(images, padding))

    def _padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = size
        if not self.pads and (height, width) == tuple(self.size):
            return height, width
        return height + -height % STRIDE, width + -width % STRIDE

    def _laid_out(self, images: Tensor) -> Tensor:
        """With the channels last where convolutions are many, which compute faster so."""
        return images.to(memory_format=torch.channels_last) if self.kind == "cnn" else images

    def _probe(self, size: tuple[int, int]) -> None:
        """Run the network once: which layers it calls, which LoRA may wrap."""
        images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        candidates = adaptable_layers(self.network, self.heads)
        try:
            with calls_noted(self.network, candidates) as called:
                self.look(self._padded(images))
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(
                f"task.image_size: this network does not take images of {size[0]} x {size[1]} "
                f"({str(error).strip().splitlines()[0]}); set another task.image_size or task.tile"
            ) from error
        self.lora_targets = called

    def look(self, images: Tensor) -> None:
        """One forward pass in evaluation mode, to learn what the head reads."""
        raise NotImplementedError

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


class SmpModel(SegmentationModel):
    """A model of segmentation-models-pytorch: encoder, decoder and segmentation_head.

    The features of an image are the levels of the encoder's pyramid that the decoder reads.
    """

    network: Any

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        heads = ["decoder", "segmentation_head"]
        super().__init__(
            network,
            heads=heads,
            blocks=encoder_stages(network.encoder.model, "encoder.model"),
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
        levels = self.network.encoder(self._padded(inputs[INPUT]))
        return {f"level{place}": levels[place] for place in self._read}

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(features.values()))
        # A level that the decoder does not read is there for its size alone, and holds nothing.
        levels = [
            self._laid_out(features[f"level{place}"])
            if place in self._read
            else some.new_zeros(1).expand(len(some), *shape)
            for place, shape in enumerate(self._shapes)
        ]
        return self._head(levels)[..., : self.size[0], : self.size[1]]

    def _head(self, levels: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.network.segmentation_head(self.network.decoder(list(levels)))
        return logits

    def look(self, images: Tensor) -> None:
        levels = self.network.encoder(images)
        self._shapes = [tuple(level.shape[1:]) for level in levels]
        self._read = []
        for place, level in enumerate(levels):
            spoiled = [*levels[:place], torch.full_like(level, torch.nan), *levels[place + 1 :]]
            if level.numel() and self.network.decoder(spoiled).isnan().any():
                self._read.append(place)

    def save(self, folder: Path) -> None:
        """As smp.from_pretrained loads it."""
        self.network.save_pretrained(folder)


class TransformersSegmenter(SegmentationModel):
    """A semantic-segmentation network of transformers with the head of its own class.

    The features of an image are the maps that the head reads, where it reads a list of them.
    """

    network: Any

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        if getattr(network, "auxiliary_head", None) is not None:
            # It is trained by a loss that is not computed here, so it would get no gradient.
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
        # Its library pads nothing, and attention would see what is padded.
        self.pads = False
        try:
            self._probe(size)
        except ModelError:
            self.pads = True
            self._probe(size)
        self._idle = self._find_idle()

    def _find_idle(self) -> list[nn.Parameter]:
        """What the logits do not depend on, such as the last norm of a backbone whose maps are read
        before it.
        """
        images = self._padded(torch.zeros(2, 3, *self.size))
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        training = self.network.training
        logits = self.network.eval()(pixel_values=images).logits
        found = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
        self.network.train(training)
        return [own for own, gradient in zip(trained, found, strict=True) if gradient is None]

    @property
    def cacheable(self) -> bool:
        return self._levels is not None

    def logits(self, images: Tensor) -> Tensor:
        logits = self.network(pixel_values=images).logits
        for parameter in self._idle:  # a distributed run waits for the gradient of every parameter
            logits = logits + 0 * parameter.sum()
        return self._enlarged(logits, images.shape[-2:])

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        read = self._head_input(self._padded(inputs[INPUT]))
        return {f"level{place}": level for place, level in enumerate(read)}

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        assert self._levels is not None
        logits = self._head(tuple(features[f"level{place}"] for place in range(self._levels)))
        logits = self._enlarged(logits, self._padded_size(self.size))
        return logits[..., : self.size[0], : self.size[1]]

    def look(self, images: Tensor) -> None:
        found = self.network(pixel_values=images).logits
        if len(self.heads) == 1:
            read = self._head_input(images)
            if read and all(isinstance(level, Tensor) for level in read):
                # Some networks enlarge what their head says by themselves.
                again = self._enlarged(self._head(tuple(read)), found.shape[-2:])
                self._levels = len(read) if torch.allclose(again, found, atol=1e-6) else None

    def _head(self, levels: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = self.network.get_submodule(self.heads[0])(levels)
        return logits

    def _head_input(self, images: Tensor) -> Sequence[Tensor]:
        """The maps that the head is given; () where it is given something else."""
        caught: list[Any] = []
        head = self.network.get_submodule(self.heads[0])
        handle = head.register_forward_pre_hook(lambda _, arguments: caught.extend(arguments[:1]))
        try:
            self.network(pixel_values=images)
        finally:
            handle.remove()
        return caught[0] if caught and isinstance(caught[0], list | tuple) else ()

    def _enlarged(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)
