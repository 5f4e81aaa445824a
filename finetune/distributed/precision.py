"""Weights that stay as they are, in the type that passes compute in: cast once, not at every use.

Autocast keeps its copy of a weight only where that is trained, and drops it after the pass. The
weights under LoRA would be cast at every step, and all of them at every word that is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetune.distributed.devices import as_float32
from finetune.distributed.fsdp import is_sharded
from finetune.errors import ConfigError, nearest
from finetune.model import TransferModel

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""What accelerate calls them."""
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


def choose_precision(asked: str | None, device: torch.device) -> tuple[str, str]:
    """The precision of the network's computation, and why.

    It is what was asked for, else the launcher's, else what the device has. Raises ConfigError for
    fp16 on a CPU, where accelerate scales no loss and would compute in float32 without a word.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    wanted = asked or (launched if launched in ("bf16", "fp16") else None)
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError(
            "train.precision=fp16: needs a GPU, and this run is on a CPU; use bf16 or fp32, or "
            "leave it out"
        )
    if wanted is not None:
        return wanted, "asked for" if asked else "what accelerate was launched with"
    if has_native_bf16(device):
        return "bf16", f"this {device.type} computes bf16 natively"
    return "fp32", f"this {device.type} has no native bf16"


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed by the hardware; emulation is many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch.cpu has no public question for this.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def check_precision(asked: str | None, device: torch.device) -> str:
    """The precision of predictions: what is asked for, else fp32. Raises ConfigError."""
    if asked is None:
        return "fp32"
    if asked not in MIXED:
        raise ConfigError(f"precision: {asked!r} is none; {nearest(asked, MIXED)}")
    return choose_precision(asked, device)[0]
