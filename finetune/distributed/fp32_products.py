"""Linear layers in float32 by oneDNN, on CPUs on which torch's own matrix products are slow.

Torch computes them by MKL, which uses AVX-512 on Intel's CPUs alone. oneDNN, which torch has for
bf16 and for convolutions, uses it on all: on a Zen 5, it computes the linear layers of a small
encoder in less than half of the time. It is chosen by the kind of CPU and not by measurement, so
that equal inputs have equal outputs; these differ from MKL's by rounding.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PLAIN = Tensor, torch.nn.Parameter  # a subclass, such as a quantized weight, has its own product


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which linear layers without gradient are computed in the faster way."""
    if device.type == "cpu" and has_slow_products():
        return OneDnnLinear()
    return contextlib.nullcontext()


@functools.cache
def has_slow_products() -> bool:
    """True if this CPU has AVX-512, MKL does not use it, and torch has oneDNN's linear layer."""
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "Intel" not in _vendor()
        # What torch.compile computes linear layers with; torch has no public function for it that
        # takes ordinary tensors.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _vendor() -> str:
    """Return the vendor of the CPU as it names itself: GenuineIntel, AuthenticAMD."""
    if sys.platform != "linux":
        return platform.processor()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith("vendor_id")), "")


class OneDnnLinear(TorchFunctionMode):
    """Compute float32 linear layers by oneDNN while entered, wherever a network calls them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and _is_plain(*args, **(kwargs or {})):
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_plain(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    tensors = [input, weight] if bias is None else [input, weight, bias]
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and input.numel() > 0
        and weight.dim() == 2
        and input.shape[-1] == weight.shape[-1]
        and all(
            type(each) in _PLAIN and each.dtype == torch.float32 and each.device.type == "cpu"
            for each in tensors
        )
    )


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute [..., I] x [O, I] + [O]: [..., O]."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return result
