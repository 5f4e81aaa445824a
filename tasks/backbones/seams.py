"""Names of the parts of a pretrained network: blocks from input to output, LoRA targets, heads.

Shapes: B rows, N positions, H features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def find_blocks(network: nn.Module, heads: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the pretrained parts from input to output: layers, and the modules between them.

    Modules before the first layer (embeddings) are a block of their own; those after a layer (a
    final norm, a pooler) belong to that layer's block.
    """
    lists: list[str] = []
    for name, module in network.named_modules():
        nested = name.startswith(tuple(f"{outer}." for outer in lists))
        if isinstance(module, nn.ModuleList) and not nested and has_parameters(module):
            lists.append(name)
    blocks: list[list[str]] = [[]]
    for name, _ in network.named_parameters():
        if is_within(name, heads):
            continue
        outer_list = next((outer for outer in lists if name.startswith(f"{outer}.")), None)
        if outer_list is not None:
            part = f"{outer_list}.{name[len(outer_list) + 1 :].partition('.')[0]}"
            if part not in blocks[-1]:
                blocks.append([part])
        else:
            part = _loose_part(name, [*lists, *heads])
            if part not in blocks[-1]:
                blocks[-1].append(part)
    return [tuple(block) for block in blocks if block]


def encoder_stages(encoder: nn.Module, prefix: str) -> list[tuple[str, ...]]:
    """Return the parts of an encoder from input to output: the stem, then the stages.

    A norm outside the stages belongs to the part before it.
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
    loose = [f"{prefix}.{name}" for name, _ in encoder.named_parameters(recurse=False)]
    if loose:
        blocks[0][:0] = loose
    return [tuple(block) for block in blocks]


def is_within(name: str, parts: Sequence[str]) -> bool:
    """True if a dotted name is one of the parts or inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def has_parameters(module: nn.Module) -> bool:
    """True if a module has parameters."""
    return next(module.parameters(), None) is not None


def _loose_part(name: str, excluded: Sequence[str]) -> str:
    """Return the largest module around a parameter that contains none of the `excluded` parts."""
    steps = name.split(".")
    for depth in range(1, len(steps)):
        part = ".".join(steps[:depth])
        if not any(other == part or other.startswith(f"{part}.") for other in excluded):
            return part
    return name


def linear_layers(network: nn.Module, blocks: Sequence[Sequence[str]]) -> list[str]:
    """Return the linear layers of the numbered layers: attention and feed-forward."""
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
    """Run `network` on `inputs` and return the input of its `head`."""
    captured: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    try:
        network(**inputs)
    finally:
        handle.remove()
    return captured[0]


@contextmanager
def output_at(network: Any, positions: Tensor) -> Iterator[None]:
    """Pass only the hidden states at `positions`, [N, H], to the output layer of a language model.

    Positions are indices into the rows of a batch, one after another.
    """

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = arguments[0]
        return (states.reshape(-1, states.shape[-1])[positions], *arguments[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recorded_calls(network: nn.Module, layers: Sequence[str]) -> Iterator[list[str]]:
    """Record which of the `layers` a forward pass of `network` inside the context calls.

    The network is in evaluation mode, without gradients. LoRA must not wrap a layer whose weights
    the network uses without calling it.
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
    """True if the head computes the logits from one vector per row [B, H], which can be cached."""
    ids = torch.tensor([[1, 2, 3]])
    training = network.training
    network.eval()
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        vectors = head_input(network, head, inputs)
        matches = vectors.ndim == 2 and torch.equal(head(vectors), network(**inputs).logits)
    network.train(training)
    return matches


def input_channels(network: nn.Module) -> int:
    """Return the number of channels of the images that a vision network reads."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return next((int(each.in_channels) for each in convolutions), 3)
