"""Strongly altered views of rows, for FixMatch: texts with words left out, or their second half.

Images are augmented by their task instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.task_parts.samples import Row

_DROPPED = 0.3  # share of the words

View = Callable[[str, np.random.Generator], str]


def drop_words(text: str, rng: np.random.Generator) -> str:
    """Leave out words at random."""
    words = text.split()
    draws = zip(words, rng.random(len(words)), strict=True)
    return " ".join(word for word, draw in draws if draw >= _DROPPED) or text


def second_half(text: str, rng: np.random.Generator) -> str:
    """Keep the second half of the words, which often says the same in other words."""
    words = text.split()
    return " ".join(words[len(words) // 2 :]) or text


TEXT_VIEWS: tuple[View, ...] = (drop_words, second_half)


def alter_texts(rows: Sequence[Row], view: View, seed: int) -> list[Row]:
    """Return rows in which every cell is a text with the view of it; a function of the seed."""
    return [
        {name: view(text, np.random.default_rng([seed, number])) for name, text in row.items()}
        for number, row in enumerate(rows)
    ]
