"""Tokenization shared by tasks that read text: loading, counting tokens, truncating, padding.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.task_parts.samples import Length
from tasks.backbones.load_faults import describe_fault
from tasks.backbones.pretrained import from_pretrained
from tasks.text.long_texts import PART, count_tokens, is_long, shorten_text

# Tokenizers without a maximum length report a model_max_length above this.
UNBOUNDED = 1_000_000
# Number of texts in which unknown tokens are counted, and the share of them that is reported.
SAMPLED_TEXTS, UNKNOWN_SHARE = 200, 0.02
# Runs of characters, on which patterns of exponential time do not end.
_PROBE = "a " + " ".join(character * 50 for character in "aZ1.-_é\n") + " of words" * 20


def load_tokenizer(source: ModelConfig) -> Any:
    """Load a model's tokenizer, with a padding token.

    Raises ModelError if it cannot encode a text, in good time, or has no token to pad with.
    """
    remedy = "The folder needs tokenizer.json or the files it is built from"
    tokenizer = from_pretrained("AutoTokenizer", source, remedy)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"model.name: the tokenizer of {source.name!r} has no padding, end-of-sequence or "
            "unknown token, so rows of unequal length cannot be batched; set one of its tokens in "
            'tokenizer_config.json: "pad_token": "<pad>"'
        )
    try:
        with _without_panics():
            tokenizer(_PROBE)
    except Exception as error:  # the library raises no class of its own
        raise ModelError(
            f"model.name: the tokenizer of {source.name!r} cannot encode a text "
            f"({describe_fault(error)}); copy the model here again from an intact source"
        ) from error
    # Lengths are counted before truncation, which would trigger this warning of transformers.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


@contextlib.contextmanager
def _without_panics() -> Iterator[None]:
    """Convert a panic of the library, which is written in Rust, to ValueError.

    It is not an Exception, and the library prints several lines on standard error itself.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = f"a pattern in its tokenizer.json is invalid or takes exponential time: {error}"
        raise ValueError(reason) from None
    finally:
        os.dup2(original, 2)
        os.close(original)


def unknown_tokens_note(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return a note if many tokens of the first texts are unknown to the tokenizer."""
    if tokenizer.unk_token_id in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return []  # a byte-level vocabulary such as GPT-2's has no unknown tokens
    sample = [text[:PART] for text in islice(texts, SAMPLED_TEXTS)]
    encoded = tokenizer(sample, add_special_tokens=False)["input_ids"]
    ids = [token for text_ids in encoded for token in text_ids]
    share = ids.count(tokenizer.unk_token_id) / max(len(ids), 1)
    if share < UNKNOWN_SHARE:
        return []
    return [
        f"tokens: {share:.0%} of the tokens of the first {len(sample)} texts are "
        f"{tokenizer.unk_token}: the model cannot tell these words and characters apart; consider "
        "a model whose vocabulary covers them"
    ]


def max_input_length(tokenizer: Any, config: Any) -> int | None:
    """Return the maximum number of tokens that a network reads; None if it has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return int(tokenizer.model_max_length) if tokenizer.model_max_length < UNBOUNDED else None
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        # They number positions from the padding id + 1 on.
        positions -= (config.pad_token_id or 0) + 1
    return int(positions)


def limit_length(max_length: int, limit: int | None) -> tuple[int, list[str]]:
    """Lower max_length to the limit of the network; return it, and a note if it was lowered."""
    if limit is None or max_length <= limit:
        return max_length, []
    return limit, [f"max_length: {limit} instead of {max_length}, the maximum of this model"]


def token_lengths(
    tokenizer: Any, texts: Sequence[Any], pairs: Sequence[Any] | None, max_length: int
) -> list[Length]:
    """Count the tokens of each text (or pair) that are read, and those that are truncated."""
    sizes = list[int]()
    for start in range(0, len(texts), 1000):
        part = slice(start, start + 1000)
        columns = [texts[part], pairs[part]] if pairs else [texts[part]]
        if any(is_long(text) for column in columns for text in column):
            specials = tokenizer.num_special_tokens_to_add(pair=len(columns) > 1)
            for row in zip(*columns, strict=True):
                sizes.append(specials + sum(count_tokens(tokenizer, text) for text in row))
        else:
            encoded = tokenizer(*map(list, columns), return_attention_mask=False)
            sizes += map(len, encoded["input_ids"])
    return [Length(min(size, max_length), max(size - max_length, 0)) for size in sizes]


def encode_head_tail(tokenizer: Any, text: str, max_length: int) -> dict[str, list[int]]:
    """Encode a text, and cut out its middle if it is too long.

    A quarter of max_length is kept from its start, the rest from its end; special tokens are at the
    ends, so they are kept.
    """
    ends = [shorten_text(tokenizer, text, max_length, tail=tail) for tail in (False, True)]
    if max(map(len, ends)) < len(text):
        text = " ".join(ends)
    encoded = tokenizer(text)
    head = max_length // 4
    return {
        name: ids if len(ids) <= max_length else [*ids[:head], *ids[head - max_length :]]
        for name, ids in encoded.items()
    }


def pad_tokens(samples: Sequence[Mapping[str, Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Stack encoded texts to tensors [B, T], padded on the right to the longest."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    inputs = {}
    for name in samples[0]:
        filling = pad_id if name == "input_ids" else 0
        values = [[*sample[name], *[filling] * (longest - len(sample[name]))] for sample in samples]
        inputs[name] = torch.tensor(values, dtype=torch.long)
    return inputs
