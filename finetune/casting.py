"""Weights that stay as they are, in the type that passes compute in: cast once, not at every use.

Autocast keeps its copy of a weight only where that is trained, and drops it after the pass. The
weights under LoRA would be cast at every step, and all of them at every word that is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.loading import as_float32
from finetune.model import TransferModel
from finetune.sharding import is_sharded

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def cast_once(
    model: TransferModel, precision: str, trained: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """While this lasts, layers whose weight is not among `trained` compute with a narrow copy.

    It is the copy that autocast would make, so the outputs are the same to the last bit; only a
    network that asks for the type of a weight (T5, ViT) may draw LoRA's dropout in that type. The
    parameters themselves stay in float32 where they were: what is saved or counted does not change.
    """
    dtype = NARROW.get(precision)
    if dtype is None or model.reads_weights or is_sharded(model):
        yield
        return
    changing = {id(parameter) for parameter in trained}
    kinds = _kinds()
    layers: list[Any] = [
        module
        for module in model.modules()
        if type(module) in kinds
        and module.weight.dtype == torch.float32
        and id(module.weight) not in changing
    ]
    # One copy serves all layers that share a weight. All are made before any is used: memory may
    # run out, and nothing must be left behind then.
    weights: dict[int, Tensor] = {id(layer.weight): layer.weight for layer in layers}
    copies = {key: weight.detach().to(dtype) for key, weight in weights.items()}
    for layer in layers:
        # Found before the parameter of the same name, which the module goes on to hold.
        vars(layer)["weight"] = copies[id(layer.weight)]
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["weight"]


@contextlib.contextmanager
def computing_in(precision: str, model: TransferModel, device: torch.device) -> Iterator[None]:
    """While this lasts, the passes of a model that is not trained compute in this precision; what
    they give is float32.
    """
    dtype = NARROW.get(precision)
    if dtype is None:
        yield
        return
    handle = model.register_forward_hook(lambda *passed: as_float32(passed[-1]))
    try:
        with torch.autocast(device.type, dtype), cast_once(model, precision):
            yield
    finally:
        handle.remove()


def _kinds() -> tuple[type[nn.Module], ...]:
    """Layers whose weight autocast casts as a whole; classes derived from them may do more."""
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D
