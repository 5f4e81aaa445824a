"""What tasks that read text share: tokenizing, counting tokens, padding.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.task_parts import Length
from tasks.backbones.pretrained import from_pretrained

# A tokenizer that knows no longest input names a number above this.
UNBOUNDED = 1_000_000
# Texts that tell whether a tokenizer knows what they are written in, and the share of unknown
# tokens that is worth a word.
SAMPLED, MUCH = 200, 0.02


def load_tokenizer(source: ModelConfig) -> Any:
    """The tokenizer of a network, with a padding token. Raises ModelError where none can be one."""
    remedy = "The folder needs tokenizer.json or the files that it is made from"
    tokenizer = from_pretrained("AutoTokenizer", source, remedy)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"model.name: {source.name!r} has a tokenizer without a padding, an end or an unknown "
            "token, so rows of unequal length cannot share a batch; name one of its tokens in "
            'tokenizer_config.json: "pad_token": "<pad>"'
        )
    # Tokens are counted before they are cut, of which transformers would warn.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def unknown_note(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """A sentence on a tokenizer that does not know much of what the first texts are written in."""
    if tokenizer.unk_token_id in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return []  # of tokens that are bytes, as those of GPT-2, none is unknown
    some = list(islice(texts, SAMPLED))
    ids = [i for own in tokenizer(some, add_special_tokens=False)["input_ids"] for i in own]
    share = ids.count(tokenizer.unk_token_id) / max(len(ids), 1)
    if share < MUCH:
        return []
    return [
        f"tokens: {share:.0%} of those of the first {len(some)} texts are {tokenizer.unk_token}, "
        "for words and signs that this network cannot tell apart; another may know them"
    ]


def longest_input(tokenizer: Any, config: Any) -> int | None:
    """The most tokens that a network takes; None if it is not bounded by learned positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return int(tokenizer.model_max_length) if tokenizer.model_max_length < UNBOUNDED else None
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        # They number positions from the padding id on.
        positions -= (config.pad_token_id or 0) + 1
    return int(positions)


def settle_length(asked: int, longest: int | None) -> tuple[int, list[str]]:
    """The tokens that are read where a network takes `longest` at most, and a sentence if those are
    fewer than asked for.
    """
    if longest is None or asked <= longest:
        return asked, []
    return longest, [
        f"max_length: {longest}, the most that this network takes, in place of {asked}"
    ]


def token_lengths(
    tokenizer: Any, texts: Sequence[Any], pairs: Sequence[Any] | None, longest: int
) -> list[Length]:
    """How many tokens each text (or pair) has, and how many over `longest` are cut away."""
    found = []
    for start in range(0, len(texts), 1000):
        part = slice(start, start + 1000)
        second = list(pairs[part]) if pairs else None
        encoded = tokenizer(list(texts[part]), second, return_attention_mask=False)
        sizes = [len(ids) for ids in encoded["input_ids"]]
        found += [Length(min(size, longest), max(size - longest, 0)) for size in sizes]
    return found


def encode_ends(tokenizer: Any, text: str, longest: int) -> dict[str, list[int]]:
    """A text of which, if it is too long, a quarter of the tokens is read from its head and the
    others from its tail. Special tokens stand at the ends, so they are kept.
    """
    encoded = tokenizer(text)
    head = longest // 4
    return {
        name: ids if len(ids) <= longest else [*ids[:head], *ids[head - longest :]]
        for name, ids in encoded.items()
    }


def pad_tokens(samples: Sequence[Mapping[str, Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Encoded texts as tensors [B, T], padded on the right to the longest."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    inputs = {}
    for name in samples[0]:
        filling = pad_id if name == "input_ids" else 0
        values = [[*sample[name], *[filling] * (longest - len(sample[name]))] for sample in samples]
        inputs[name] = torch.tensor(values, dtype=torch.long)
    return inputs
