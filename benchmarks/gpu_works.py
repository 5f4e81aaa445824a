"""The works of `benchmarks.gpu`: networks of usual sizes, their rows and keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import random_networks as networks


@dataclass(frozen=True)
class Work:
    """A network to train.

    Attributes:
        write: function (folder, is_tiny) that writes the network.
        rows: words of a text, or the kind of pictures.
        keys: those of the run.
        large: keys of the large size.
        tiny: keys of the tiny size, beside two samples a step.
    """

    write: Callable[..., None]
    rows: int | str
    keys: dict[str, Any]
    large: dict[str, Any]
    tiny: dict[str, Any] = field(default_factory=dict)


_SHORT = {"max_length": 64}


def texts(**keys: Any) -> Work:
    """Return the training of BERT-base on texts of 200 to 400 words."""
    keys = {"task": "text-classification", "method": "full", **keys}
    return Work(networks.write_bert, 400, keys, {"max_length": 512, "batch_size": 32}, _SHORT)


def pictures(network: Callable[..., None], side: int, **keys: Any) -> Work:
    """Return the training of a network on pictures of 224 pixels, or in tiny size of `side`."""
    keys = {"task": "image-classification", "method": "full", **keys}
    large, tiny = {"image_size": 224, "batch_size": 64}, {"image_size": side}
    return Work(network, "shapes", keys, large, tiny)


def answers(network: Callable[..., None] = networks.write_decoder, **keys: Any) -> Work:
    """Return the training of a decoder on prompts and answers of very unequal length."""
    keys = {"task": "text-generation", "method": "lora", **keys}
    return Work(network, 700, keys, {"max_length": 1024, "batch_size": 16}, _SHORT)


def scenes(task: str, batch_size: int) -> Work:
    """Return the training of a ResNet-50 under a detector or a Unet, on 512 pixels."""
    large = {"image_size": 512, "batch_size": batch_size}
    keys = {"task": task, "method": "full"}
    return Work(networks.write_resnet, "scenes", keys, large, {"image_size": 64})


COMPILED: dict[str, Any] = {"train.compile": True}
WORKS = {
    "bert-full": texts(),
    "bert-full-compiled": texts(**COMPILED),
    "vit-full": pictures(networks.write_vit, 224),
    "vit-full-compiled": pictures(networks.write_vit, 224, **COMPILED),
    "resnet-full": pictures(networks.write_resnet, 64),
    "decoder-full": answers(method="full"),
    "decoder-full-compiled": answers(networks.write_decoder, method="full", **COMPILED),
    "decoder-lora": answers(),
    "decoder-lora-compiled": answers(networks.write_decoder, **COMPILED),
    "decoder-lora-masks": answers(networks.write_decoder, **{"model.attention": "sdpa"}),
    "decoder-4bit": answers(quantize="4bit"),
    "decoder-8bit": answers(quantize="8bit"),
    "vocabulary": answers(networks.write_wide_decoder),
    "vocabulary-fused": answers(networks.write_wide_decoder, **{"task.fused_loss": True}),
    "fcos": scenes("object-detection", 8),
    "unet": scenes("segmentation", 16),
}
TRAINER = {
    "bert-full": ("fp32", "bf16"),
    "vit-full": ("fp32", "bf16"),
    "decoder-full": ("bf16",),
    "decoder-lora": ("bf16",),
}
"""{work that transformers.Trainer does as well: the precisions it does it in, its default first}"""
