"""Sliding windows over long texts: each window is read alone, and its outputs are pooled per row.

Shapes: B rows, W windows of all rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ConfigError
from finetune.task_parts.samples import Length
from tasks.text.long_texts import shorten_text
from tasks.text.text_config import Pooling

WINDOWS = "windows"
"""Input key: in a sample, the lengths of its windows; in a batch, the windows of each row, [B]."""


def encode_windows(
    tokenizer: Any, text: str, max_length: int, overlap: int, max_windows: int
) -> dict[str, list[int]]:
    """Return the first windows of a text, concatenated, and their lengths under WINDOWS."""
    text = shorten_text(tokenizer, text, max_length * max_windows)
    encoded = tokenizer(
        text, truncation=True, max_length=max_length, stride=overlap, return_overflowing_tokens=True
    )
    encoded.pop("overflow_to_sample_mapping", None)
    kept = {name: windows[:max_windows] for name, windows in encoded.items()}
    inputs = {name: [item for ids in windows for item in ids] for name, windows in kept.items()}
    return inputs | {WINDOWS: [len(ids) for ids in kept["input_ids"]]}


def check_windows(tokenizer: Any, max_length: int, overlap: int) -> None:
    """Raise ConfigError if the tokenizer cannot split texts into windows of this size."""
    if not tokenizer.is_fast:
        raise ConfigError(
            "task.truncation=windows requires a fast tokenizer (of the `tokenizers` library), "
            "which this model does not provide; use task.truncation=head, tail or head-tail"
        )
    content = max_length - tokenizer.num_special_tokens_to_add()
    if overlap >= content:
        raise ConfigError(
            f"task.window_overlap: an overlap of {overlap} tokens leaves no new tokens in windows "
            f"of {content}; set it below {content}, or raise task.max_length"
        )


def window_length(
    length: Length, max_length: int, specials: int, overlap: int, max_windows: int
) -> Length:
    """Return the length in tokens when a text is read in windows instead of truncated.

    `length` is that of the text truncated to `max_length`; `specials` counts the special tokens of
    a window.
    """
    content = length.used + length.cut - specials
    first, step = max_length - specials, max_length - specials - overlap
    count = 1 + max(0, -(-(content - first) // step))
    read = min(content, first + (min(count, max_windows) - 1) * step)
    repeats = (min(count, max_windows) - 1) * (overlap + specials)
    return Length(read + specials + repeats, content - read, repeats, length.is_estimate)


def split_windows(inputs: Sequence[Mapping[str, Sequence[int]]]) -> list[dict[str, Sequence[int]]]:
    """Split the outputs of `encode_windows` into the windows of all rows, in order."""
    windows = []
    for row in inputs:
        start = 0
        for length in row[WINDOWS]:
            part = slice(start, start + length)
            windows.append({name: ids[part] for name, ids in row.items() if name != WINDOWS})
            start += length
    return windows


def pool_windows(values: Tensor, counts: Tensor, pooling: Pooling) -> Tensor:
    """Pool the values of windows, [W, ...], to one per row, [B, ...]; `counts` is [B]."""
    rows = torch.arange(len(counts), device=values.device)
    owner = rows.repeat_interleave(counts, output_size=len(values))  # [W]
    pooled = values.new_zeros(len(counts), *values.shape[1:])
    if pooling == "max":
        index = owner.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        return pooled.scatter_reduce(0, index, values, "amax", include_self=False)
    divisors = counts.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return pooled.index_add(0, owner, values) / divisors
