"""Precision of a run's computation, and cached low-precision copies of frozen weights.

Autocast caches its copy of a weight only if the weight is trained, and only for one pass. Without
the cache here, it would cast LoRA's frozen weights on every step, and all weights for every
generated token.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finetune.distributed.devices import as_float32
from finetune.distributed.fp32_products import fast_products
from finetune.distributed.fsdp import is_sharded
from finetune.distributed.positional_dropout import quick_attention
from finetune.errors import ConfigError, nearest
from finetune.model import TransferModel

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""{precision: accelerate's name for it}"""
LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def cast_once(
    model: TransferModel, precision: str, trained: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Cache low-precision copies of all weights that are not in `trained`.

    These are the copies that autocast would make, so outputs are bitwise the same, except that
    networks which read a weight's dtype (T5, ViT) may draw LoRA's dropout in that dtype. The
    parameters themselves stay registered in float32, for saving and counting.
    """
    dtype = LOW_PRECISION.get(precision)
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
    # One copy serves all layers that share a weight. All copies are made before any is installed,
    # so that running out of memory leaves nothing behind.
    weights: dict[int, Tensor] = {id(layer.weight): layer.weight for layer in layers}
    copies = {key: weight.detach().to(dtype) for key, weight in weights.items()}
    for layer in layers:
        # An instance attribute shadows the registered parameter of the same name.
        vars(layer)["weight"] = copies[id(layer.weight)]
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["weight"]


@contextlib.contextmanager
def quick_inference(model: TransferModel, device: torch.device, precision: str) -> Iterator[None]:
    """Cast weights once and compute attention in the faster way, for passes without gradient."""
    with cast_once(model, precision), quick_attention(device, precision):
        yield


@contextlib.contextmanager
def inference_precision(
    precision: str, model: TransferModel, device: torch.device
) -> Iterator[None]:
    """Run forward passes in this precision, with float32 outputs, for inference."""
    dtype = LOW_PRECISION.get(precision)
    if dtype is None:
        with fast_products(device):
            yield
        return
    handle = model.register_forward_hook(lambda *arguments: as_float32(arguments[-1]))
    try:
        with torch.autocast(device.type, dtype), quick_inference(model, device, precision):
            yield
    finally:
        handle.remove()


def _kinds() -> tuple[type[nn.Module], ...]:
    """Return layers whose whole weight autocast casts; subclasses may do more with it."""
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D


def choose_precision(configured: str | None, device: torch.device) -> tuple[str, str]:
    """Return the precision of the network's computation, and the reason.

    The configured one, else the launcher's, else the best native one. Raises ConfigError for fp16
    on a CPU, where accelerate has no loss scaler and would silently compute in float32.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    wanted = configured or (launched if launched in ("bf16", "fp16") else None)
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError(
            "train.precision=fp16: needs a GPU, but this run is on a CPU; use bf16 or fp32, or "
            "leave it out"
        )
    if wanted is not None:
        return wanted, "as configured" if configured else "set by accelerate launch"
    if has_native_bf16(device):
        return "bf16", f"this {device.type} device computes bf16 natively"
    return "fp32", f"this {device.type} device has no native bf16"


def has_native_bf16(device: torch.device) -> bool:
    """True if the hardware computes bf16; emulation is many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch.cpu has no public function for this.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def check_precision(name: str | None, device: torch.device) -> str:
    """Return the precision of predictions, by default fp32. Raises ConfigError."""
    if name is None:
        return "fp32"
    if name not in MIXED_PRECISION:
        raise ConfigError(
            f"precision: unknown precision {name!r}; {nearest(name, MIXED_PRECISION)}"
        )
    return choose_precision(name, device)[0]
