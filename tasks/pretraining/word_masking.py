"""Masks over the tokens of a text: whole words, drawn as in BERT (arXiv:1810.04805).

Shapes: T tokens of a text.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from finetune.task_parts.samples import Rng

NO_WORD = -1  # of special tokens
MASKED, RANDOM = 0.8, 0.1  # shares of the chosen words; the others stay as they are


class MaskedTokens(NamedTuple):
    """Token ids [T] with masks, the positions to predict in order, and the ids that were there."""

    ids: list[int]
    positions: list[int]
    targets: list[int]


def number_words(encoded: Any, text: str, index: int = 0) -> list[int]:
    """Number the words of an encoded text, one entry per token; NO_WORD for special tokens.

    A word of the tokenizer ends at a blank at the latest: some tokenizers have one word per text.
    """
    words, count, previous, end = list[int](), 0, None, 0
    for word, (start, stop) in zip(encoded.word_ids(index), encoded[index].offsets, strict=True):
        if word is None:
            words.append(NO_WORD)
            continue
        is_apart = text[end:start].isspace() or text[start : start + 1].isspace()
        count += word != previous or is_apart
        words.append(count - 1)
        previous, end = word, stop
    return words


@dataclass(frozen=True)
class WordMasking:
    """Settings of the masks.

    Attributes:
        ratio: share of the tokens to predict.
        mask_id: id of the mask token.
        ordinary_ids: ids of all tokens but the special ones, which random tokens are drawn from.
    """

    ratio: float
    mask_id: int
    ordinary_ids: np.ndarray

    def draw(self, ids: Sequence[int], words: Sequence[int], rng: Rng | None) -> MaskedTokens:
        """Mask words until `ratio` of the tokens are chosen, at least one word.

        Without `rng`, the masks are a function of the tokens. Each chosen word is masked, replaced
        or kept as a whole.
        """
        rng = rng or content_rng(np.array(ids, dtype=np.int64))
        members = dict[int, list[int]]()
        for position, word in enumerate(words):
            if word != NO_WORD:
                members.setdefault(word, []).append(position)
        wanted = max(1, round(self.ratio * sum(map(len, members.values()))))
        masked, positions = list(ids), list[int]()
        for word in rng.permutation(len(members)):
            if len(positions) >= wanted:
                break
            chosen = members[list(members)[word]]
            positions += chosen
            kind = rng.random()
            if kind < MASKED:
                new = [self.mask_id] * len(chosen)
            elif kind < MASKED + RANDOM:
                new = rng.choice(self.ordinary_ids, len(chosen)).tolist()
            else:
                continue
            for position, token in zip(chosen, new, strict=True):
                masked[position] = token
        positions.sort()
        return MaskedTokens(masked, positions, [ids[position] for position in positions])


def content_rng(values: np.ndarray) -> Rng:
    """Return a generator that is a function of some values: held-out masks are always the same."""
    return np.random.default_rng([zlib.crc32(np.ascontiguousarray(values).tobytes()), values.size])


def ordinary_tokens(tokenizer: Any) -> np.ndarray:
    """Return the ids of a tokenizer's vocabulary without special and added tokens."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = sorted({*tokenizer.get_vocab().values()} - special)
    return np.array(ids, dtype=np.int64)
