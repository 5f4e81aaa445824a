"""Pretrained vision networks of timm and transformers as TransferModels: where the head is, which
stages there are, what LoRA may wrap.

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
from tasks.backbones.seams import calls_noted, find_blocks, has_parameters, head_input, lies_in
from tasks.backbones.vector_heads import HiddenHead, HiddenShape, save_head
from tasks.image.preprocessing import INPUT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HeightWidth = tuple[int, int]


class VisionModel(LogitsModel):
    """A network over images whose outputs are logits [B, C].

    On construction one small forward pass finds out which layers the network calls, so that LoRA is
    offered no layer whose weights it reads past, and whether its head reads pooled features.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[str],
        blocks: Sequence[Sequence[str]],
        size: HeightWidth,
    ) -> None:
        super().__init__(
            network, heads=heads, blocks=blocks, kind=vision_network_kind(network, heads)
        )
        # Convolutions compute faster with the channels last, in training most of all.
        self._channels_last = self.kind == "cnn"
        module = network.get_submodule(heads[0]) if len(heads) == 1 else None
        self._head = module
        self._pools = False
        self._probe(size)

    def _probe(self, size: HeightWidth) -> None:
        """Run the network once. Raises ModelError if it does not take images of this size."""
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        candidates = adaptable_layers(self.network, self.heads)
        try:
            with calls_noted(self.network, candidates) as called:
                logits = self.run(self._laid_out(images))
                if self._head is not None:
                    pooled = self.features({INPUT: images})["pooled"]
                    self._pools = torch.allclose(self._head(pooled), logits, rtol=1e-4, atol=1e-6)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(
                f"task.image_size: this network does not take images of {size[0]} x {size[1]} "
                f"({str(error).strip().splitlines()[0]}); leave task.image_size out, or take the "
                "same network of timm, which resizes position embeddings"
            ) from error
        self.lora_targets = called

    @property
    def cacheable(self) -> bool:
        return self._pools

    def run(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        raise NotImplementedError

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch:
            assert self._head is not None
            return self._head(batch["features"]["pooled"])  # type: ignore[no-any-return]
        return self.run(self._laid_out(batch["inputs"][INPUT]))

    @contextmanager
    def head_apart(self, folder: Path) -> Iterator[None]:
        """Inside, the network is without a hidden head, which no other library knows: it is saved
        into a file of its own.
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
    """A network of timm with its own classifier."""

    network: Any

    def __init__(self, network: Any, size: HeightWidth, labels: Sequence[str] = ()) -> None:
        heads = head_names(network)
        self.labels = list(labels)
        super().__init__(network, heads, timm_stages(network, heads), size)

    def run(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the classifier reads: {"pooled": [B, F]}."""
        maps = self.network.forward_features(self._laid_out(inputs[INPUT]))
        return {"pooled": self.network.forward_head(maps, pre_logits=True)}

    def save(self, folder: Path) -> None:
        """As timm.create_model("local-dir:<folder>", pretrained=True) and transformers load it."""
        self.settle()
        names = {"label_names": self.labels} if self.labels else {}
        with self.head_apart(folder):
            timm.models.save_for_hf(
                self.network, str(folder), model_config=names, safe_serialization=True
            )
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # It stands in the config twice, and transformers' wrapper of timm chokes on the second.
        config.get("model_args", {}).pop("num_classes", None)
        write_json(folder / "config.json", config)

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


class TransformersVisionModel(VisionModel):
    """An image-classification network of transformers with the head of its own class."""

    network: PreTrainedModel

    def __init__(self, network: PreTrainedModel, size: HeightWidth) -> None:
        heads = head_names(network)
        super().__init__(network, heads, find_blocks(network, heads), size)

    def run(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits  # type: ignore[no-any-return]

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head reads: {"pooled": [B, ...]}."""
        assert self._head is not None
        images = {INPUT: self._laid_out(inputs[INPUT])}
        return {"pooled": head_input(self.network, self._head, images)}

    def save(self, folder: Path) -> None:
        self.settle()
        with self.head_apart(folder), quiet_transformers():
            self.network.save_pretrained(folder)

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


def head_names(network: Any) -> list[str]:
    """The parts of a classifier of timm or of transformers that make its logits."""
    if hasattr(network, "pretrained_cfg"):
        named = network.pretrained_cfg["classifier"]
        return [named] if isinstance(named, str) else list(named)
    base = network.base_model_prefix
    children = network.named_children()
    return [name for name, child in children if name != base and has_parameters(child)]


def put_head(network: Any, head: nn.Module | None) -> Any:
    """The network with another head, if there is one, in the place of its own."""
    if head is not None:
        network.set_submodule(head_names(network)[0], head)
    return network


def hide_layer(network: Any, hidden: HiddenShape | None) -> Any:
    """The network with a hidden layer, if one is asked for, before its linear one.

    Raises ModelError.
    """
    if hidden is None:
        return network
    names = head_names(network)
    last = network.get_submodule(names[0])
    if len(names) > 1 or not isinstance(last, nn.Linear):
        raise ModelError(
            f"task.head_hidden: the head of {type(network).__name__} ({', '.join(names)}) is not "
            "one linear layer, in whose place another could stand; leave it out"
        )
    return put_head(network, HiddenHead(last.in_features, hidden, last.out_features))


def vision_network_kind(network: nn.Module, heads: Sequence[str]) -> str:
    """ "cnn" if most parameters that are no head lie in convolutions, else "vit"."""
    convolved = others = 0
    for name, module in network.named_modules():
        if not lies_in(name, heads):
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            is_patching = isinstance(module, nn.Conv2d) and module.stride == module.kernel_size
            is_convolution = isinstance(module, nn.Conv2d) and (
                not is_patching or module.kernel_size == (1, 1)
            )
            convolved, others = (
                convolved + own * is_convolution,
                others + own * (not is_convolution),
            )
    return "cnn" if convolved > others else "vit"


def adaptable_layers(network: nn.Module, heads: Sequence[str]) -> list[str]:
    """Linear layers and convolutions outside the heads that LoRA can wrap and merge.

    Left out are grouped, depthwise and dilated convolutions, which peft cannot, and subclasses,
    whose forward does something else (padding, standardised weights) than an adapter beside them.
    """
    from transformers.pytorch_utils import Conv1D  # a linear layer

    found = []
    for name, module in network.named_modules():
        plain = type(module) in (nn.Linear, nn.Conv2d, Conv1D)
        if isinstance(module, nn.Conv2d):
            plain &= module.groups == 1 and module.dilation == (1, 1)
            plain &= module.padding_mode == "zeros"
        if plain and not lies_in(name, heads):
            found.append(name)
    return found


def timm_stages(network: Any, heads: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of a timm network from input to output by its own grouping: the stem, then stages
    of a CNN or blocks of a transformer; a norm after the last belongs to it.
    """
    groups = timm.models.group_parameters(network, network.group_matcher(coarse=True))
    parameters = dict(network.named_parameters())
    blocks: list[list[str]] = []
    for _, names in sorted(groups.items()):
        own = [name for name in names if not lies_in(name, heads)]
        if blocks and all(parameters[name].ndim == 1 for name in own):
            blocks[-1] += own
        elif own:
            blocks.append(own)
    return [tuple(_modules_of(parameters, names)) for names in blocks]


def _modules_of(parameters: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The largest modules all of whose parameters are among `names`, and what lies in none."""
    own, found = set(names), dict[str, None]()
    for name in names:
        part = name
        while "." in part:
            outer = part.rpartition(".")[0]
            if any(other.startswith(f"{outer}.") and other not in own for other in parameters):
                break
            part = outer
        found[part] = None
    return list(found)
