"""Clipping of gradients, by themselves and within a fused optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from finetune.optim.gradient_guard import clip_gradients


def train(
    optimizer_class: Any,
    most: float | None,
    *,
    clips_apart: bool,
    dtype: torch.dtype = torch.float32,
    **keys: Any,
) -> Any:
    """Take three steps; return the norms before and the weights after them."""
    generator = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"generator": generator, "dtype": dtype}
    weights = [nn.Parameter(torch.randn(size, 7, **sizes)) for size in (5, 40)]
    unused = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = optimizer_class([*weights, unused], lr=0.1, **keys)
    norms = []
    for size in (0.01, 3.0, 0.02):  # not clipped, clipped, not clipped again
        for weight in weights:
            weight.grad = size * torch.randn(weight.shape, **sizes)
        if clips_apart:
            norms.append(clip_grad_norm_([*weights, unused], most or math.inf))
        else:
            norms.append(clip_gradients(optimizer, [*weights, unused], most))
        optimizer.step()
    return norms, weights


@pytest.mark.parametrize("most", [1.0, 1e-3, None])
@pytest.mark.parametrize(
    ("optimizer", "keys"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.AdamW, {"fused": False}),
        (torch.optim.SGD, {"fused": True, "momentum": 0.9}),
        (torch.optim.AdamW, {"fused": True, "dtype": torch.float64}),
        (torch.optim.AdamW, {"fused": True, "dtype": torch.bfloat16}),
    ],
)
def test_updates_are_those_of_clipped_gradients(
    optimizer: Any, keys: dict[str, Any], most: float | None
) -> None:
    expected_norms, expected = train(optimizer, most, clips_apart=True, **keys)
    norms, weights = train(optimizer, most, clips_apart=False, **keys)
    assert norms == expected_norms
    for actual, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-7)
        assert most is not None or torch.equal(actual, wanted)
        assert actual.dtype == torch.float32 or torch.equal(actual, wanted)
