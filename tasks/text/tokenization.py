"""Tokenization shared by tasks that read text: loading, counting tokens, truncating, padding.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.task_parts.samples import Lengths
from tasks.backbones.load_faults import describe_fault
from tasks.backbones.pretrained import from_pretrained
from tasks.text.long_texts import PART, estimate_tokens, is_long, without_middle

# Tokenizers without a maximum length report a model_max_length above this.
UNBOUNDED = 1_000_000
# Number of texts in which unknown tokens are counted, and the share of them that is reported.
SAMPLED_TEXTS, UNKNOWN_SHARE = 200, 0.02
# Texts that are tokenized at once to count their tokens: a hundred bytes of memory per character.
TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 2_000_000
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


def tokenizer_content(tokenizer: Any) -> str | None:
    """Return a digest of a fast tokenizer: vocabulary, rules and special tokens; None of others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_truncation()  # of the last call, as is the padding; each call sets its own
    backend.no_padding()
    content = f"{type(tokenizer).__qualname__} {tokenizer.split_special_tokens} {backend.to_str()}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def token_lengths(
    tokenizer: Any, rows: Iterable[Sequence[str]], max_length: int, windows: int = 1
) -> Lengths:
    """Count the tokens of each text (or pair) that are read, and those that are truncated.

    Those that are truncated of a huge text are estimated; it is read in so many `windows`.
    """
    sizes, count = list[int](), partial(_count_encoded, tokenizer)
    estimated, enough = list[int](), max_length * windows
    for number, window in enumerate(_windows(rows)):
        if any(map(is_long, chain.from_iterable(window))):
            specials = tokenizer.num_special_tokens_to_add(pair=len(window[0]) > 1)
            for row in window:
                counts = [estimate_tokens(tokenizer, text, enough) for text in row]
                estimated += [len(sizes)] if any(is_estimate for _, is_estimate in counts) else []
                sizes.append(specials + sum(size for size, _ in counts))
            continue
        if number == 1 and _count_faster(tokenizer, window) == count(window):
            count = partial(_count_faster, tokenizer)
        sizes += count(window)
    return Lengths.truncated(sizes, max_length, estimated)


def _windows(rows: Iterable[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """Yield rows to tokenize at once: a thousand, or fewer with long texts, which take memory."""
    window, size = list[Sequence[str]](), 0
    for row in rows:
        window.append(row)
        size += sum(map(len, row))
        if len(window) == TEXTS_AT_ONCE or size >= CHARACTERS_AT_ONCE:
            yield window
            window, size = [], 0
    if window:
        yield window


def _count_encoded(tokenizer: Any, rows: Sequence[Sequence[str]]) -> list[int]:
    columns = map(list, zip(*rows, strict=True))
    return [len(ids) for ids in tokenizer(*columns, return_attention_mask=False)["input_ids"]]


def _count_faster(tokenizer: Any, rows: Sequence[Sequence[str]]) -> list[int]:
    """Count tokens in two thirds of the time, by the tokenizer within; [] if there is none.

    It counts the same unless a tokenizer does more in Python, which the first texts show.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    texts = [row[0] if len(row) == 1 else tuple(row) for row in rows]
    return list(map(len, backend.encode_batch_fast(texts)))


def encode_head_tail(tokenizer: Any, text: str, max_length: int) -> dict[str, list[int]]:
    """Encode a text, and cut out its middle if it is too long.

    A quarter of max_length is kept from its start, the rest from its end; special tokens are at the
    ends, so they are kept.
    """
    encoded = tokenizer(without_middle(tokenizer, text, max_length)[0])
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
