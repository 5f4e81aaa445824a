"""Devices by name, and nests of tensors on their way to one.

A nest is a tensor, or dicts, lists and tuples of nests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ConfigError


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    # Without the check a build for CUDA names it on a machine that has none.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ConfigError if this machine, or this torch, has none such."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = " or ".join(sorted({"cpu", best_device().type}))
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device: {str(name)!r} cannot be used here ({said}); write {here}, or leave it out"
        ) from error
    return device


def to_device(value: Any, device: torch.device) -> Any:
    """A nest of dicts and lists with every tensor on `device`; on a CUDA device, copied without
    waiting. An Apple GPU, which has no float64, gets float32.
    """

    def move(tensor: Tensor) -> Tensor:
        if device.type == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        # Only pinned memory stays as it is until it was copied, and only CUDA devices have it.
        return tensor.to(device, non_blocking=device.type == "cuda")

    return map_tensors(value, move)


def as_float32(outputs: Any) -> Any:
    """The same nest with its floating tensors, which autocast may have made narrow, in float32."""
    return map_tensors(outputs, lambda t: t.float() if t.is_floating_point() else t)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of a nest, in its order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A nest of dicts, lists and tuples with `function` applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    return value
