"""Long texts as overlapping windows, each read alone, and what is said of them pooled to one row.

Shapes: B rows, W windows of all rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from finetune.errors import ConfigError
from finetune.task_parts import Length

COUNT = "windows"
"""In the inputs of a sample, the lengths of its windows; of a batch, how many a row has, [B]."""

Pooling = Literal["mean", "max"]


def encode_windows(
    tokenizer: Any, text: str, longest: int, overlap: int, most: int
) -> dict[str, list[int]]:
    """The first `most` windows of a text one behind the other, and their lengths under COUNT."""
    encoded = tokenizer(
        text, truncation=True, max_length=longest, stride=overlap, return_overflowing_tokens=True
    )
    encoded.pop("overflow_to_sample_mapping", None)
    kept = {name: windows[:most] for name, windows in encoded.items()}
    inputs = {name: [item for own in windows for item in own] for name, windows in kept.items()}
    return inputs | {COUNT: [len(own) for own in kept["input_ids"]]}


def check_windows(tokenizer: Any, longest: int, overlap: int) -> None:
    """Raise ConfigError where this tokenizer cannot cut such windows."""
    if not tokenizer.is_fast:
        raise ConfigError(
            "task.truncation=windows needs a tokenizer of the `tokenizers` library, which this "
            "network has not; use task.truncation=head, tail or head-tail"
        )
    content = longest - tokenizer.num_special_tokens_to_add()
    if overlap >= content:
        raise ConfigError(
            f"task.window_overlap: {overlap} tokens leave nothing new in windows of {content}; "
            f"set it below {content}, or raise task.max_length"
        )


def window_length(length: Length, longest: int, specials: int, overlap: int, most: int) -> Length:
    """What windows make of a text that would be cut to `longest`, in tokens."""
    content = length.used + length.cut - specials
    first, step = longest - specials, longest - specials - overlap
    count = 1 + max(0, -(-(content - first) // step))
    read = min(content, first + (min(count, most) - 1) * step)
    repeats = (min(count, most) - 1) * (overlap + specials)
    return Length(read + specials + repeats, content - read, repeats)


def split_windows(inputs: Sequence[Mapping[str, Sequence[int]]]) -> list[dict[str, Sequence[int]]]:
    """The windows of all rows, in order, from what `encode_windows` made of each."""
    found = []
    for own in inputs:
        start = 0
        for length in own[COUNT]:
            part = slice(start, start + length)
            found.append({name: ids[part] for name, ids in own.items() if name != COUNT})
            start += length
    return found


def pool_windows(values: Tensor, counts: Tensor, pooling: Pooling) -> Tensor:
    """What is said of each window, [W, ...], as one for each row, [B, ...]."""
    rows = torch.arange(len(counts), device=values.device)
    owner = rows.repeat_interleave(counts, output_size=len(values))  # [W]
    pooled = values.new_zeros(len(counts), *values.shape[1:])
    if pooling == "max":
        index = owner.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        return pooled.scatter_reduce(0, index, values, "amax", include_self=False)
    shares = counts.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return pooled.index_add(0, owner, values) / shares
