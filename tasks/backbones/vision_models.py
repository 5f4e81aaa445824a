"""Pretrained vision networks of timm and transformers as TransferModels: heads, stages, LoRA
targets.

Shapes: B images, H, W pixels, F features, C outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.io.files import write_json
from finetune.model import Batch
from tasks.backbones.logits_model import LogitsModel
from tasks.backbones.pretrained import quiet_transformers
from tasks.backbones.seams import find_blocks, has_parameters, head_input, is_within, recorded_calls
from tasks.backbones.vector_heads import HiddenHead, HiddenShape, save_head
from tasks.image.preprocessing import INPUT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HeightWidth = tuple[int, int]


class VisionModel(LogitsModel):
    """An image network whose outputs are logits [B, C].

    A small forward pass on construction determines which layers the network calls, so that LoRA
    does not wrap layers whose weights are used without a call, and whether its head reads
    pooled features.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[str],
        blocks: Sequence[Sequence[str]],
        size: HeightWidth,
        channels: int = 3,
    ) -> None:
        super().__init__(
            network, heads=heads, blocks=blocks, kind=vision_network_kind(network, heads)
        )
        # Convolutions are faster in the channels-last layout, above all in training.
        self._channels_last = self.kind == "cnn"
        module = network.get_submodule(heads[0]) if len(heads) == 1 else None
        self._head = module
        self._pools = False
        self._probe(size, channels)

    def _probe(self, size: HeightWidth, channels: int) -> None:
        """Run the network once. Raises ModelError if it does not accept images of this size."""
        images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
        candidates = adaptable_layers(self.network, self.heads)
        try:
            with recorded_calls(self.network, candidates) as called:
                logits = self.run(self._laid_out(images))
                if self._head is not None:
                    pooled = self.features({INPUT: images})["pooled"]
                    self._pools = torch.allclose(self._head(pooled), logits, rtol=1e-4, atol=1e-6)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(
                f"task.image_size: this network does not accept images of {size[0]} x {size[1]} "
                f"({str(error).strip().splitlines()[0]}); remove task.image_size, or use the same "
                "network from timm, which resizes position embeddings"
            ) from error
        self.lora_targets = called

    @property
    def cacheable(self) -> bool:
        return self._pools

    def run(self, images: Tensor) -> Tensor:
        """Compute logits [B, C] of images [B, 3, H, W]."""
        raise NotImplementedError

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch:
            assert self._head is not None
            return self._head(batch["features"]["pooled"])  # type: ignore[no-any-return]
        return self.run(self._laid_out(batch["inputs"][INPUT]))

    @contextmanager
    def detached_head(self, folder: Path) -> Iterator[None]:
        """Save a head with a hidden layer to its own file, and detach it inside the context.

        Other libraries cannot load a network with such a head.
        """
        if not isinstance(self._head, HiddenHead):
            yield
            return
        save_head(self._head, folder)
        self.network.set_submodule(self.heads[0], nn.Identity())
        try:
            yield
        finally:
            self.network.set_submodule(self.heads[0], self._head)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last) if self._channels_last else images


class TimmModel(VisionModel):
    """A timm network with its own classifier."""

    network: Any

    def __init__(
        self, network: Any, size: HeightWidth, labels: Sequence[str] = (), channels: int = 3
    ) -> None:
        heads = head_names(network)
        self.labels = list(labels)
        super().__init__(network, heads, timm_stages(network, heads), size, channels)

    def run(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the classifier's input: {"pooled": [B, F]}."""
        maps = self.network.forward_features(self._laid_out(inputs[INPUT]))
        return {"pooled": self.network.forward_head(maps, pre_logits=True)}

    def save(self, folder: Path) -> None:
        """Save it so that timm.create_model("local-dir:<folder>", pretrained=True) and transformers
        can load it.
        """
        self.consolidate()
        names = {"label_names": self.labels} if self.labels else {}
        with self.detached_head(folder):
            timm.models.save_for_hf(
                self.network, str(folder), model_config=names, safe_serialization=True
            )
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # num_classes is in the config twice, and transformers' timm wrapper fails on the second.
        config.get("model_args", {}).pop("num_classes", None)
        write_json(folder / "config.json", config)

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


class TransformersVisionModel(VisionModel):
    """An image-classification network of transformers with its own head."""

    network: PreTrainedModel

    def __init__(self, network: PreTrainedModel, size: HeightWidth) -> None:
        heads = head_names(network)
        super().__init__(network, heads, find_blocks(network, heads), size)

    def run(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits  # type: ignore[no-any-return]

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the head's input: {"pooled": [B, ...]}."""
        assert self._head is not None
        images = {INPUT: self._laid_out(inputs[INPUT])}
        return {"pooled": head_input(self.network, self._head, images)}

    def save(self, folder: Path) -> None:
        self.consolidate()
        with self.detached_head(folder), quiet_transformers():
            self.network.save_pretrained(folder)

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


def head_names(network: Any) -> list[str]:
    """Return the names of the layers of a timm or transformers classifier that compute logits."""
    if hasattr(network, "pretrained_cfg"):
        classifier = network.pretrained_cfg["classifier"]
        return [classifier] if isinstance(classifier, str) else list(classifier)
    base = network.base_model_prefix
    children = network.named_children()
    return [name for name, child in children if name != base and has_parameters(child)]


def replace_head(network: Any, head: nn.Module | None) -> Any:
    """Replace the head of a network, unless `head` is None; return the network."""
    if head is not None:
        network.set_submodule(head_names(network)[0], head)
    return network


def add_hidden_layer(network: Any, hidden: HiddenShape | None) -> Any:
    """Insert a hidden layer, if one is given, before a network's linear head; return the network.

    Raises ModelError if the head is not a single linear layer.
    """
    if hidden is None:
        return network
    names = head_names(network)
    last = network.get_submodule(names[0])
    if len(names) > 1 or not isinstance(last, nn.Linear):
        raise ModelError(
            f"task.head_hidden: the head of {type(network).__name__} ({', '.join(names)}) is not a "
            "single linear layer that could be replaced; remove the key"
        )
    return replace_head(network, HiddenHead(last.in_features, hidden, last.out_features))


def vision_network_kind(network: nn.Module, heads: Sequence[str]) -> str:
    """Return "cnn" if most parameters outside the heads belong to convolutions, else "vit"."""
    convolutions = others = 0
    for name, module in network.named_modules():
        if not is_within(name, heads):
            count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            is_patching = isinstance(module, nn.Conv2d) and module.stride == module.kernel_size
            is_convolution = isinstance(module, nn.Conv2d) and (
                not is_patching or module.kernel_size == (1, 1)
            )
            convolutions, others = (
                convolutions + count * is_convolution,
                others + count * (not is_convolution),
            )
    return "cnn" if convolutions > others else "vit"


def adaptable_layers(network: nn.Module, heads: Sequence[str]) -> list[str]:
    """Return the linear layers and convolutions outside the heads that LoRA can wrap and merge.

    Excluded are grouped, depthwise and dilated convolutions, which peft cannot wrap, and
    subclasses, whose forward pass differs from the adapter's (padding, standardized weights).
    """
    from transformers.pytorch_utils import Conv1D  # a linear layer

    layers = []
    for name, module in network.named_modules():
        plain = type(module) in (nn.Linear, nn.Conv2d, Conv1D)
        if isinstance(module, nn.Conv2d):
            plain &= module.groups == 1 and module.dilation == (1, 1)
            plain &= module.padding_mode == "zeros"
        if plain and not is_within(name, heads):
            layers.append(name)
    return layers


def timm_stages(network: Any, heads: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the parts of a timm network from input to output, by timm's own grouping.

    They are the stem, then the stages of a CNN or the blocks of a transformer. A norm after the
    last part belongs to it.
    """
    groups = timm.models.group_parameters(network, network.group_matcher(coarse=True))
    parameters = dict(network.named_parameters())
    blocks: list[list[str]] = []
    for _, names in sorted(groups.items()):
        body = [name for name in names if not is_within(name, heads)]
        if blocks and all(parameters[name].ndim == 1 for name in body):
            blocks[-1] += body
        elif body:
            blocks.append(body)
    return [tuple(_modules_of(parameters, names)) for names in blocks]


def _modules_of(parameters: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the largest modules with all parameters among `names`, and the other parameters."""
    group, modules = set(names), dict[str, None]()
    for name in names:
        part = name
        while "." in part:
            outer = part.rpartition(".")[0]
            if any(other.startswith(f"{outer}.") and other not in group for other in parameters):
                break
            part = outer
        modules[part] = None
    return list(modules)
