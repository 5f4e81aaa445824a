"""Where the seam runs in a native network: its blocks from input to output, what LoRA may wrap.

Shapes: B rows, H features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def find_blocks(network: nn.Module, heads: Sequence[str]) -> list[tuple[str, ...]]:
    """The pretrained parts from input to output: layers, and what stands between them.

    What comes before the first layer (embeddings) is a block of its own; what follows a layer (a
    last norm, a pooler) belongs to that layer's block.
    """
    lists: list[str] = []
    for name, module in network.named_modules():
        nested = name.startswith(tuple(f"{outer}." for outer in lists))
        if isinstance(module, nn.ModuleList) and not nested and has_parameters(module):
            lists.append(name)
    blocks: list[list[str]] = [[]]
    for name, _ in network.named_parameters():
        if lies_in(name, heads):
            continue
        holder = next((outer for outer in lists if name.startswith(f"{outer}.")), None)
        if holder is not None:
            part = f"{holder}.{name[len(holder) + 1 :].partition('.')[0]}"
            if part not in blocks[-1]:
                blocks.append([part])
        else:
            part = _loose_part(name, [*lists, *heads])
            if part not in blocks[-1]:
                blocks[-1].append(part)
    return [tuple(block) for block in blocks if block]


def encoder_stages(encoder: nn.Module, prefix: str) -> list[tuple[str, ...]]:
    """The parts of an encoder from input to output: the stem, then a stage after the other.

    A norm by itself belongs to the part before it.
    """
    blocks: list[list[str]] = []
    for name, child in encoder.named_children():
        parts = {f"{prefix}.{name}": child}
        if isinstance(child, nn.Sequential | nn.ModuleList) and name in ("blocks", "stages"):
            parts = {f"{prefix}.{name}.{n}": part for n, part in child.named_children()}
        for dotted, part in parts.items():
            if not has_parameters(part):
                continue
            is_norm = all(parameter.ndim == 1 for parameter in part.parameters())
            if blocks and is_norm:
                blocks[-1].append(dotted)
            else:
                blocks.append([dotted])
    own = [f"{prefix}.{name}" for name, _ in encoder.named_parameters(recurse=False)]
    if own:
        blocks[0][:0] = own
    return [tuple(block) for block in blocks]


def lies_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a dotted name is that of one of the parts, or of something in it."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def has_parameters(module: nn.Module) -> bool:
    """Whether there is anything in a module that could be trained."""
    return next(module.parameters(), None) is not None


def _loose_part(name: str, apart: Sequence[str]) -> str:
    """The largest part around a parameter that holds none of the parts that stand apart."""
    steps = name.split(".")
    for depth in range(1, len(steps)):
        part = ".".join(steps[:depth])
        if not any(other == part or other.startswith(f"{part}.") for other in apart):
            return part
    return name


def linear_layers(network: nn.Module, blocks: Sequence[Sequence[str]]) -> list[str]:
    """The linear layers inside lists of layers: attention and feed-forward, not embeddings."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    layers = tuple(
        f"{name}." for block in blocks for name in block if name.rpartition(".")[2].isdigit()
    )
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(layers)
    ]


def head_input(network: nn.Module, head: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What `head` is given when `network` runs on `inputs`."""
    caught: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        network(**inputs)
    finally:
        handle.remove()
    return caught[0]


@contextmanager
def calls_noted(network: nn.Module, layers: Sequence[str]) -> Iterator[list[str]]:
    """Inside, in evaluation mode and without gradients, `network` runs; the `layers` that it calls.

    LoRA must be offered no layer whose weights a network reads past.
    """
    called: list[str] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
        for name in layers
    ]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield called
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    called[:] = [name for name in layers if name in called]


def reads_one_vector(network: Any, head: nn.Linear) -> bool:
    """Whether the head makes the logits of one vector [B, H] a row, which can be cached."""
    ids = torch.tensor([[1, 2, 3]])
    training = network.training
    network.eval()
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given = head_input(network, head, inputs)
        fits = given.ndim == 2 and torch.equal(head(given), network(**inputs).logits)
    network.train(training)
    return fits
