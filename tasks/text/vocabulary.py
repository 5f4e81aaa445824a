"""Domain vocabulary: words that a tokenizer fragments, and adding words as single tokens.

Shapes: V tokens of the vocabulary, H features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from finetune.errors import ConfigError, ModelError, format_count, listed

_WORD = re.compile(r"[^\W\d_][\w-]*")
# Occurrences and tokens from which a word is listed as fragmented; words listed at most.
MIN_COUNT, MIN_PIECES = 5, 4
LISTED = 20


def fragmented_words(tokenizer: Any, texts: Iterable[str]) -> list[tuple[str, int, int]]:
    """List words split into many tokens: (word, tokens, occurrences), costliest first."""
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    if not frequent:
        return []
    # With a leading space, as inside a text: BPE tokenizers encode it differently.
    encoded = tokenizer([f" {word}" for word in frequent], add_special_tokens=False)["input_ids"]
    words = [
        (word, len(ids), counts[word])
        for word, ids in zip(frequent, encoded, strict=True)
        if len(ids) >= MIN_PIECES
    ]
    return sorted(words, key=lambda each: (-each[2] * (each[1] - 1), each[0]))[:LISTED]


def add_words(tokenizer: Any, words: Sequence[str]) -> dict[str, list[int]]:
    """Add words to a tokenizer; return {word: ids of the tokens that it was split into before}.

    For an unknown word that is the unknown token. Raises ConfigError for a word that is a single
    token already.
    """
    pieces = {}
    for word in words:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if not ids or (len(ids) == 1 and ids[0] != tokenizer.unk_token_id):
            raise ConfigError(
                f"task.add_tokens: {word!r} is already a single token; remove it"
                if word.strip()
                else f"task.add_tokens: {word!r} is blank; remove it"
            )
        pieces[word] = list(ids)
    tokenizer.add_tokens(list(words))
    return pieces


def added_tokens_note(words: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Return a note on the added words, naming those that occur in no text."""
    unseen = list(words)
    if not unseen:
        return []
    note = (
        f"add_tokens: {format_count(len(unseen), 'token')} added, each embedding initialized to "
        "the mean of its pieces; with method=lora, set method.train_tokens=true to train them"
    )
    for text in texts:
        unseen = [word for word in unseen if word not in text]
        if not unseen:
            break
    return [f"{note}; not in any training row: {listed(unseen, LISTED)}" if unseen else note]


def embed_words(network: Any, tokenizer: Any, pieces: Mapping[str, Sequence[int]]) -> None:
    """Add a row to the embedding [V, H] for each added word, the mean of the rows of its pieces."""
    if not pieces:
        return
    before = network.get_input_embeddings().weight
    means = {word: before[list(ids)].detach().mean(0) for word, ids in pieces.items()}
    if len(tokenizer) > len(before):
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = network.get_input_embeddings().weight
    with torch.no_grad():
        for word, mean in means.items():
            weight[tokenizer.convert_tokens_to_ids(word)] = mean


def check_embeddings(network: Any, tokenizer: Any, name: str) -> None:
    """Raise ModelError if tokens have no row in the embedding [V, H].

    Added tokens may lack one: texts need not contain them.
    """
    added = tokenizer.get_added_vocab()
    ids = [index for token, index in tokenizer.get_vocab().items() if token not in added]
    largest, size = max(ids, default=0), len(network.get_input_embeddings().weight)
    if largest >= size:
        raise ModelError(
            f"model.name: the tokenizer of {name!r} has tokens up to number {largest}, and the "
            f"network embeds {size}; its files belong to different models, so give those of one"
        )


def embedding_rows(network: Any, rows: Sequence[int], *tables: Any) -> dict[str, list[int]]:
    """Return {dotted name: rows} for the embedding modules `tables`; {} without rows."""
    names = [name for name, module in network.named_modules() if any(module is t for t in tables)]
    return {name: list(rows) for name in names} if rows else {}
