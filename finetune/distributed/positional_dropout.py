"""Dropout whose masks are functions of position: of seed, step, layer, sample, place in the sample.

A mask is not a stretch of a random stream but a hash of coordinates (a counter-based generator,
Salmon et al. 2011, doi:10.1145/2063384.2063405), so that neither padding nor the division of a
batch into micro-batches and processes changes it. Four elements share one hash: the probability is
exact to 2^-16. On a CPU this takes a quarter of the time of torch's own dropout.

While a `PositionalDropout` is entered, it replaces dropout, stochastic depth, and attention with
dropout, which torch computes on a CPU in its slow reference implementation. That is wherever a
network calls them: as modules, as functions, or in layers of peft. A `TorchFunctionMode` is torch's
public interface for that. Unlike exchanged modules or a registered attention function, it also
reaches networks that call `torch.nn.functional` directly, it is active in recomputed activations,
and the network itself stays as its library built it, in checkpoints and in final/. Only
`nn.MultiheadAttention` keeps torch's own dropout.

Shapes: B samples, A attention heads, T queries, S keys, H features.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

LEVELS = 2**16  # of the probability: each element has 16 random bits
LANES = 4  # elements that share one hash of 64 bits
# Hashes that are computed at a time, per thread: they stay in the second-level cache.
CHUNK = 2**15
# Above this, attention without dropout is left to torch's kernel, which does not keep all scores.
MOST_SCORES = 2**26
# Odd factors, as signed integers, of the coordinates and of the two rounds of the hash: those of
# SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195) and of its mix 13 by Stafford.
STRIDE = -7046029254386353131
ROUNDS = -4658895280553007687, -7723592293110705685


def seed_of(*position: int) -> int:
    """Hash a position, such as (seed, step, process), to a seed; neighbors are uncorrelated."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from, on the CPU and on `device`.

    torch.manual_seed also visits all other device types and formats a stack for each: 0.3 ms.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextlib.contextmanager
def seeded_dropout(
    device: torch.device,
    position: Sequence[int],
    samples: Sequence[int] | None = None,
    *,
    matmul_attention: bool = False,
) -> Iterator[PositionalDropout | None]:
    """Make dropout in forward and backward passes a function of `position`, such as (seed, step).

    With `samples`, which number the samples of the pass, it is also a function of the sample alone.
    Without them, torch's own dropout is used on other devices than a CPU.
    """
    seed_dropout(seed_of(*position), device)
    if samples is None and device.type != "cpu":
        yield None
        return
    with PositionalDropout(samples or (0,), matmul_attention=matmul_attention) as mode:
        yield mode


def quick_attention(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return a context in which attention without gradient is computed in the faster way.

    That is by matrix products in bf16 on a CPU, which torch's kernel takes half as long again for.
    Scores are rounded to bf16, as all that the linear layers around them compute.
    """
    if prefers_matmul(device, precision):
        return PositionalDropout(matmul_attention=True)
    return contextlib.nullcontext()


def prefers_matmul(device: torch.device, precision: str) -> bool:
    """True where `quick_attention` differs from torch's attention."""
    return device.type == "cpu" and precision == "bf16"


class PositionalDropout(TorchFunctionMode):
    """Draw dropout masks by position while entered.

    Each call takes the key of its layer from torch's generator on the CPU, which has to be seeded
    before a forward pass and which activation checkpointing restores before it recomputes a layer.

    `samples` are distinct integers, one for each sample of the forward pass. A tensor whose first
    axis is not a multiple of their number is masked as if it were a single sample; so are all
    tensors by default. `matmul_attention` replaces attention without dropout, too.
    """

    def __init__(self, samples: Sequence[int] = (0,), *, matmul_attention: bool = False) -> None:
        super().__init__()
        self.keys = hash64(torch.tensor(samples))  # [B]
        self.matmul_attention = matmul_attention

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:  # layers may be recomputed in it
            with self:  # torch leaves a mode before it calls __torch_function__
                return _backward(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in REPLACEMENTS:
            return REPLACEMENTS[func](self.keys, *args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        return self._compute((query, key, value, attn_mask, dropout_p, is_causal), options)

    def _compute(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """Attend by matrix products with dropout, or if asked for, else by torch's kernel."""
        query, key, _, _, dropout_p, _ = arguments
        scores = query.shape[:-1].numel() * key.shape[-2]
        if dropout_p or (self.matmul_attention and scores <= MOST_SCORES):
            return _attention(self.keys, *arguments, **options)
        return F.scaled_dot_product_attention(*arguments, **options)


class AttentionRecorder(PositionalDropout):
    """Keeps the arguments of the first attention without dropout; None if there is none."""

    first: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def _compute(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        *_, dropout_p, _ = arguments
        if self.first is None and not dropout_p:
            self.first = arguments, options
        return super()._compute(arguments, options)


def _dropout(
    keys: Tensor, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Replace torch.nn.functional.dropout; `inplace` only saves memory, and is ignored."""
    if not training or not 0 < p <= 1:
        return F.dropout(input, p, training, inplace)
    return _drop(keys, input, p, input.shape)


def _channel_dropout(
    keys: Tensor, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Replace torch.nn.functional.dropout1d, 2d and 3d, which drop whole channels."""
    if not training or not 0 < p <= 1:
        return input
    return _drop(keys, input, p, (*input.shape[:2], *[1] * (input.ndim - 2)))


def _attention(
    keys: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Replace torch.nn.functional.scaled_dot_product_attention.

    Queries are [..., T, H], keys and values [..., S, H], a mask is broadcast to [..., T, S].
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    with torch.autocast(device, enabled=False):
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (tensor.repeat_interleave(repeats, -3) for tensor in (key, value))
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = query * scale @ key.transpose(-2, -1)  # [..., T, S]
        lowest = torch.finfo(scores.dtype).min  # not -inf: a row may be masked wholly
        if is_causal:
            attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = scores.new_zeros(attn_mask.shape).masked_fill(~attn_mask, lowest)
        if attn_mask is not None:
            scores += _finite(attn_mask, scores.dtype)
        weights = scores.softmax(-1)
        if not dropout_p:
            return weights @ value
        # Values have fewer elements than weights, so it is they that are scaled.
        kept = _kept_levels(dropout_p)
        mask = keep_mask(keys, weights.shape, kept, weights)
        return (weights * mask) @ (value * _scale(kept))


def _finite(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert an additive mask; a learned bias in it is differentiated as if it were not cut."""
    mask = mask.to(dtype, copy=True)
    with torch.no_grad():
        return mask.clamp_(min=torch.finfo(dtype).min)


def _bernoulli_(keys: Tensor, input: Tensor, p: float | Tensor = 0.5, **options: Any) -> Tensor:
    """Replace Tensor.bernoulli_, from which timm and torchvision draw stochastic depth."""
    if options or not isinstance(p, float):
        return input.bernoulli_(p, **options)
    return input.copy_(keep_mask(keys, input.shape, round(p * LEVELS), input))


def _rand(keys: Tensor, *size: Any, **options: Any) -> Tensor:
    """Replace torch.rand for one number a sample: transformers draws stochastic depth from it."""
    first = options.get("size", size[0] if len(size) == 1 else size)
    shape = (first,) if isinstance(first, int) else tuple(first)
    if shape != (len(keys), *[1] * (len(shape) - 1)) or "generator" in options:
        return torch.rand(*size, **options)
    numbers = hash64(_layer_keys(keys)) >> 40  # 24 bits
    return torch.empty(*size, **options).copy_((numbers / 2**24 + 0.5).view(*shape))


REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    torch.Tensor.bernoulli_: _bernoulli_,
    torch.rand: _rand,
}


def _drop(keys: Tensor, input: Tensor, p: float, shape: Sequence[int]) -> Tensor:
    kept = _kept_levels(p)
    mask = keep_mask(keys, shape, kept, input)
    return (input * mask).mul_(_scale(kept))


def _kept_levels(p: float) -> int:
    """Return how many of the random levels keep an element that is dropped with probability p."""
    return min(max(round((1 - p) * LEVELS), 1), LEVELS - 1) if p < 1 else 0


def _scale(kept: int) -> float:
    return LEVELS / kept if kept else 0.0


def keep_mask(keys: Tensor, shape: Sequence[int], kept: int, like: Tensor) -> Tensor:
    """Return a mask of `shape`: 1 with a probability of kept / LEVELS, else 0.

    `keys` are int64 [B]; dtype and device of the mask are those of `like`.
    """
    first, *middle, last = shape if len(shape) > 1 else (*shape, 1)
    if first % len(keys) != 0:
        keys = keys.sum(0, keepdim=True)
    rows = _layer_keys(keys).to(like.device)
    for axis, size in enumerate((first // len(keys), *middle), start=2):
        places = torch.arange(size, device=like.device) * (STRIDE**axis % 2**63)
        rows = rows[..., None] + places
    rows = rows.flatten()  # [R]: the first number to hash of each row of the last axis
    columns = torch.arange(-(-last // LANES), device=like.device) * STRIDE
    mask = torch.empty((len(rows), last), dtype=like.dtype, device=like.device)
    height = len(rows)
    if like.device.type == "cpu":
        height = max(1, CHUNK * torch.get_num_threads() // len(columns))
    for start in range(0, len(rows), height):
        numbers = hash64(rows[start : start + height, None] + columns).view(torch.int16)
        below = kept - LEVELS // 2
        torch.lt(numbers[:, :last], below, out=mask[start : start + height])
    return mask.view(*shape)


def _backward(tensor: Tensor, gradient: Tensor | None = None, **options: Any) -> None:
    """Do what Tensor.backward does, which would leave the mode again.

    torch.autograd.backward would, too, for a tensor but not for its edge in the graph.
    """
    gradient = torch.ones_like(tensor) if gradient is None else gradient
    torch.autograd.backward(get_gradient_edge(tensor), gradient, **options)


def _layer_keys(keys: Tensor) -> Tensor:
    """Combine the keys of the samples with a new one, drawn for the layer."""
    return keys + torch.empty(1, dtype=torch.int64).random_(-(2**63), None)


def hash64(numbers: Tensor) -> Tensor:
    """Hash int64 numbers in place to 64 random bits each."""
    shifted = numbers >> 30  # arithmetic, which loses one bit before a round, but not after both
    numbers ^= shifted
    numbers *= ROUNDS[0]
    torch.bitwise_right_shift(numbers, 27, out=shifted)
    numbers ^= shifted
    numbers *= ROUNDS[1]
    torch.bitwise_right_shift(numbers, 32, out=shifted)
    numbers ^= shifted.bitwise_and_(2**32 - 1)
    return numbers
