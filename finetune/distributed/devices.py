"""Devices by name, and operations on nests of tensors.

A nest is a tensor, or a dict, list or tuple of nests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ConfigError


def best_device() -> torch.device:
    """Return the accelerator of this machine, or its CPU."""
    # Without the check, a CUDA build of torch reports CUDA on machines without a GPU.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def core_count() -> int:
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that a product with this tensor has, under autocast or not."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def find_device(name: str | torch.device) -> torch.device:
    """Return the named device. Raises ConfigError if this machine or this torch lacks it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = " or ".join(sorted({"cpu", best_device().type}))
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device: {str(name)!r} is not available ({reason}); use {available}, or leave it out"
        ) from error
    return device


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor of a nest to `device`, asynchronously for CUDA.

    float64 becomes float32 on an Apple GPU, which lacks it.
    """

    def move(tensor: Tensor) -> Tensor:
        if device.type == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        # Asynchronous copies are only safe from pinned memory, which only CUDA uses.
        return tensor.to(device, non_blocking=device.type == "cuda")

    return map_tensors(value, move)


def as_float32(outputs: Any) -> Any:
    """Convert the floating-point tensors of a nest, such as autocast's outputs, to float32."""
    return map_tensors(outputs, lambda t: t.float() if t.is_floating_point() else t)


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors of a nest, in order."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(value, collect)
    return tensors


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to every tensor of a nest."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    return value
