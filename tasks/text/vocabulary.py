"""Words of the user's field: which of them a tokenizer breaks into many pieces, and adding them.

Shapes: V tokens of the vocabulary, H features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from finetune.errors import ConfigError, listed
from finetune.reporting.console import format_count

_WORD = re.compile(r"[^\W\d_][\w-]*")
# A word that is worth a token of its own: seen so often, in so many pieces.
OFTEN, PIECES = 5, 4
LISTED = 20


def broken_words(tokenizer: Any, texts: Iterable[str]) -> list[tuple[str, int, int]]:
    """(word, pieces, how often) of the words that cost the most pieces, costliest first."""
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    often = [word for word, count in counts.items() if count >= OFTEN]
    if not often:
        return []
    # With a space before, as inside a text: byte-pair tokenizers tell the two apart.
    encoded = tokenizer([f" {word}" for word in often], add_special_tokens=False)["input_ids"]
    found = [
        (word, len(ids), counts[word])
        for word, ids in zip(often, encoded, strict=True)
        if len(ids) >= PIECES
    ]
    return sorted(found, key=lambda each: (-each[2] * (each[1] - 1), each[0]))[:LISTED]


def add_words(tokenizer: Any, words: Sequence[str]) -> dict[str, list[int]]:
    """Add words to a tokenizer; {word: the pieces that it was before}.

    Of a word that it does not know that is the token for all such words. Raises ConfigError for a
    word that is one token already.
    """
    pieces = {}
    for word in words:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if not ids or (len(ids) == 1 and ids[0] != tokenizer.unk_token_id):
            raise ConfigError(
                f"task.add_tokens: {word!r} is one token already; leave it out"
                if word.strip()
                else f"task.add_tokens: {word!r} is no word"
            )
        pieces[word] = list(ids)
    tokenizer.add_tokens(list(words))
    return pieces


def added_note(words: Iterable[str], texts: Iterable[str]) -> list[str]:
    """A sentence on words that were added, and which of them no text has."""
    unseen = list(words)
    if not unseen:
        return []
    said = (
        f"add_tokens: {format_count(len(unseen), 'token')}, each the mean of its pieces at first; "
        "under method=lora, method.train_tokens=true trains them"
    )
    for text in texts:
        unseen = [word for word in unseen if word not in text]
        if not unseen:
            break
    return [f"{said}; in no training row: {listed(unseen, LISTED)}" if unseen else said]


def embed_words(network: Any, tokenizer: Any, pieces: Mapping[str, Sequence[int]]) -> None:
    """Give a network a row of its embedding [V, H] for each added word: the mean of its pieces."""
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


def name_rows(network: Any, rows: Sequence[int], *tables: Any) -> dict[str, list[int]]:
    """Rows of modules of a network that hold a row for each token: {dotted name: rows}."""
    names = [name for name, module in network.named_modules() if any(module is t for t in tables)]
    return {name: list(rows) for name in names} if rows else {}
