"""Very long texts, which are tokenized in parts.

A tokenizer takes a hundred bytes of memory per character, and encodes a text as a whole before it
truncates it: a cell of 10 MB takes seconds and a gigabyte, each time that it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

PART = 100_000
"""Characters of a part; shorter texts are tokenized as they are."""
_MARGIN = 100  # tokens, more than the cut of a part may change at its end


def is_long(text: str) -> bool:
    """True for a text that is tokenized in parts."""
    return len(text) > PART


def count_tokens(tokenizer: Any, text: str) -> int:
    """Count the tokens of a text, without special tokens."""
    keys = {"add_special_tokens": False, "return_attention_mask": False}
    return sum(len(tokenizer(part, **keys)["input_ids"]) for part in _parts(text))


def shorten_text(tokenizer: Any, text: str, count: int, *, tail: bool = False) -> str:
    """Return the start or the end of a long text, whose first or last `count` tokens are the same.

    A text that is not long, or has fewer tokens, is returned as it is.
    """
    size = PART
    while size < len(text):
        part = text[-size:] if tail else text[:size]
        if count_tokens(tokenizer, part) >= count + _MARGIN:
            return part
        size *= 2
    return text


def shorten_texts(
    tokenizer: Any, texts: Sequence[str], count: int, *, tail: bool = False
) -> Sequence[str]:
    """Shorten a text, or a pair of which one has fewer than `count` tokens.

    Truncation gives an odd token to the longer text of a pair, so two long ones stay as they are.
    """
    if not any(map(is_long, texts)):
        return texts
    short = [shorten_text(tokenizer, text, count, tail=tail) for text in texts]
    are_long = [count_tokens(tokenizer, text) >= count for text in short]
    return short if are_long.count(True) == 1 else texts


def _parts(text: str) -> Iterator[str]:
    """Divide a text into parts, between words where there are some."""
    start = 0
    while start < len(text):
        end = start + PART
        if end < len(text):
            blank = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = blank if blank > start else end
        yield text[start:end]
        start = end
