"""Attention of rows that share a sequence, given their boundaries instead of a mask.

On a GPU in half precision this is torch's variable-length flash attention (Dao 2023,
arXiv:2307.08691), which computes no scores between rows; elsewhere a block-diagonal mask. It is
registered with transformers as one of its attention functions. Networks hand a mask with four axes
on to it unseen, so the boundaries travel as such a "mask" [1, 1, 1, R + 1].

Shapes: K bins, A heads, T tokens of a bin, H features of a head, R rows of all bins, padding
included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.distributed.devices import autocast_dtype

PACKED = "finetune_packed"
"""Name of this attention in transformers' registry."""
_WIDEST = 256  # features of a head that the kernel takes
_HALF = (torch.bfloat16, torch.float16)


def register_packed_attention() -> None:
    """Add this attention to transformers' registry."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, attend_packed)
    AttentionMaskInterface.register(PACKED, sdpa_mask)


def as_mask(boundaries: Tensor) -> Tensor:
    """Return boundaries [R + 1], offsets in all bins one after another, in the form of a mask."""
    return boundaries[None, None, None]


def attend_packed(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each row; queries are [K, A, T, H], the result [K, T, A, H].

    With any other mask than boundaries this is transformers' sdpa.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    boundaries = None
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        boundaries = attention_mask.flatten()
        dtype = autocast_dtype(query)
        width = max(query.shape[-1], value.shape[-1])
        if query.is_cuda and dtype in _HALF and not dropout and width <= _WIDEST:
            repeats = query.shape[1] // key.shape[1]
            heads = [query, repeat_kv(key, repeats), repeat_kv(value, repeats)]
            window = -1 if sliding_window is None else sliding_window - 1
            return _attend_on_gpu([head.to(dtype) for head in heads], boundaries, scaling, window)
        bins, size = query.shape[0], query.shape[2]
        attention_mask = boundary_mask(boundaries, bins, size, sliding_window)
    attended, _ = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        sliding_window=sliding_window,
        **options,
    )
    return attended, None


def _attend_on_gpu(
    heads: list[Tensor], boundaries: Tensor, scaling: float | None, window: int
) -> tuple[Tensor, None]:
    from torch.nn.attention.varlen import varlen_attn

    bins, count, size, _ = heads[0].shape
    flat = [head.transpose(1, 2).reshape(bins * size, count, -1) for head in heads]
    places = (boundaries, boundaries, size, size)
    attended = varlen_attn(
        flat[0], flat[1], flat[2], *places, scale=scaling, window_size=(window, 0)
    )
    assert isinstance(attended, Tensor), "nothing else was asked for"
    return attended.view(bins, size, count, -1), None


def boundary_mask(boundaries: Tensor, bins: int, size: int, window: int | None = None) -> Tensor:
    """Return the causal mask [K, 1, T, T] of rows with these boundaries, True where attended."""
    places = torch.arange(bins * size, device=boundaries.device, dtype=torch.int32)
    rows = torch.bucketize(places, boundaries, right=True).view(bins, size)
    distance = places[:size, None] - places[None, :size]  # from the key to the query
    allowed = (distance >= 0) & (distance < (size if window is None else window))
    return (rows[:, :, None] == rows[:, None, :])[:, None] & allowed
