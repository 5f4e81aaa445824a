"""Very long texts, which are tokenized in parts.

A tokenizer takes a hundred bytes of memory per character, and encodes a text as a whole before it
truncates it: a cell of 10 MB takes seconds and a gigabyte, each time that it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

PART = 100_000
"""Characters of a part; shorter texts are tokenized as they are."""
WINDOW = 20_000
"""Characters of a part whose tokens are kept: small ones take a third of the time of large ones."""
COUNTED = 1_000_000
"""Characters of a text whose tokens are counted exactly, although they are truncated."""
_KEPT = 1000  # characters that stay at each end of a huge token or gap
_MARGIN = 100  # tokens, more than the cut of a part may change at its end
_CONTEXT = 200  # characters before and after a part, which are tokenized again with its neighbor


@dataclass
class Spans:
    """Ids of tokens, and the first character and the end of each, all int32 [T]."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    starts: np.ndarray[Any, np.dtype[np.int32]]
    ends: np.ndarray[Any, np.dtype[np.int32]]

    def __getitem__(self, key: Any) -> Spans:
        return Spans(self.ids[key], self.starts[key], self.ends[key])

    def equals(self, other: Spans) -> bool:
        arrays = (self.ids, other.ids), (self.starts, other.starts), (self.ends, other.ends)
        return all(np.array_equal(mine, its) for mine, its in arrays)


def is_long(text: str) -> bool:
    """True for a text that is tokenized in parts."""
    return len(text) > PART


def token_spans(tokenizer: Any, text: str) -> Spans:
    """Tokenize a text with a fast tokenizer, without special tokens; a long one in parts.

    Parts end at a token's end, and neighbors overlap: where their tokens are the same ones on both
    sides of it, they are those of the whole text. Where they are not, as in megabytes without a
    blank, the end of a part is an end of a token.
    """
    if not is_long(text):
        return _spans(tokenizer, text, 0, len(text))
    parts, done = [_spans(tokenizer, text, 0, 0)], 0
    while done < len(text):
        end = min(done + WINDOW, len(text))
        part = _spans(tokenizer, text, max(done - _CONTEXT, 0), min(end + _CONTEXT, len(text)))
        rest = _after(part, parts[-1], done) if done > 0 else part
        is_cut = rest is None
        if rest is None:
            rest = _spans(tokenizer, text, done, min(end + _CONTEXT, len(text)))
        if end < len(text):
            rest, end = _ending_by(rest, done, end)
        if is_cut and _is_same_unknown(tokenizer, parts[-1], rest):
            parts[-1].ends[-1], rest = rest.ends[0], rest[1:]
        parts += [rest] if len(rest.ids) > 0 else []
        done = end
    columns = zip(*((part.ids, part.starts, part.ends) for part in parts), strict=True)
    return Spans(*map(np.concatenate, columns))


def _spans(tokenizer: Any, text: str, start: int, end: int) -> Spans:
    """Tokenize the characters from `start` to `end`; spans are of the whole text."""
    encoded = tokenizer(
        text[start:end],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    ids, ends = encoded["input_ids"], chain.from_iterable(encoded["offset_mapping"])
    spans = np.fromiter(ends, np.int32, 2 * len(ids)).reshape(-1, 2) + np.int32(start)
    return Spans(np.array(ids, dtype=np.int32), spans[:, 0], spans[:, 1])


def _after(part: Spans, before: Spans, done: int) -> Spans | None:
    """Return the tokens of a part after `done`; None if those before it are not the ones before."""
    first = done - _CONTEXT // 2
    same = np.flatnonzero((part.starts >= first) & (part.ends <= done))
    known = before[before.starts >= first]
    if len(same) == 0 or not part[same].equals(known):
        return None
    return part[int(same[-1]) + 1 :]


def _is_same_unknown(tokenizer: Any, before: Spans, after: Spans) -> bool:
    """True if a cut is inside an unknown word, which has one token whatever its length."""
    ends = [*before.ids[-1:], *after.ids[:1]]
    return ends == [tokenizer.unk_token_id] * 2 and before.ends[-1] == after.starts[0]


def _ending_by(part: Spans, done: int, end: int) -> tuple[Spans, int]:
    """Return the tokens before the last one that begins by `end`, and its first character.

    A token of more characters than a part, such as an unknown word, is cut at `end`.
    """
    is_border = part.starts[1:] >= np.maximum.accumulate(part.ends)[:-1]
    places = np.flatnonzero(is_border & (part.starts[1:] > done) & (part.starts[1:] <= end)) + 1
    if len(places) > 0:
        return part[: int(places[-1])], int(part.starts[places[-1]])
    cut = part[part.starts < end]
    return Spans(cut.ids, cut.starts, np.minimum(cut.ends, end)), end


def count_tokens(tokenizer: Any, text: str) -> int:
    """Count the tokens of a text, without special tokens."""
    if tokenizer.is_fast:
        return len(token_spans(tokenizer, text).ids)
    keys = {"add_special_tokens": False, "return_attention_mask": False}
    return sum(len(tokenizer(part, **keys)["input_ids"]) for part in _parts(text))


def estimate_tokens(tokenizer: Any, text: str, enough: int) -> tuple[int, bool]:
    """Count the tokens of a text; True if the count is an estimate, from its first characters.

    It is exact for texts of COUNTED characters, and for those of fewer than `enough` tokens.
    """
    if len(text) > COUNTED:
        count = count_tokens(tokenizer, text[:COUNTED])
        if count >= enough + _MARGIN:
            return round(count * len(text) / COUNTED), True
    return count_tokens(tokenizer, text), False


def shorten_text(tokenizer: Any, text: str, count: int, *, tail: bool = False) -> str:
    """Return the start or the end of a long text, whose first or last `count` tokens are the same.

    One of fewer tokens is returned without the inner characters of huge tokens, and of huge gaps
    between tokens; a text that is not long, as it is.
    """
    return _shorten(tokenizer, text, count, tail=tail)[0]


def _shorten(tokenizer: Any, text: str, count: int, *, tail: bool) -> tuple[str, bool]:
    """Shorten a text; False if all of its tokens are left."""
    if not is_long(text):
        return text, False
    part = text[-PART:] if tail else text[:PART]
    if count_tokens(tokenizer, part) >= count + 2 * _MARGIN:
        return part, True
    if not tokenizer.is_fast:
        return text, False
    # Each call on such a text reads all of it, and several need it.
    return _shorten_whole(tokenizer, len(tokenizer), text, count + 2 * _MARGIN, tail)


@lru_cache(maxsize=4)
def _shorten_whole(
    tokenizer: Any, vocabulary: int, text: str, count: int, tail: bool
) -> tuple[str, bool]:
    """Shorten a text whose first or last PART characters have fewer than `count` tokens.

    `vocabulary` is the size of it: tokens may be added to a tokenizer.
    """
    spans = token_spans(tokenizer, text)
    short = _without_insides(text, spans)
    shortened = token_spans(tokenizer, short)
    if not np.array_equal(shortened.ids, spans.ids) and not _is_same(tokenizer, short, text):
        short, shortened = text, spans
    return _cut(short, shortened, count, tail), len(shortened.ids) > count


def _is_same(tokenizer: Any, text: str, other: str) -> bool:
    """True if two texts have the same tokens, each read as a whole."""
    ids = [tokenizer(one, add_special_tokens=False)["input_ids"] for one in (text, other)]
    return bool(ids[0] == ids[1])


def _without_insides(text: str, spans: Spans) -> str:
    """Remove the inner characters of tokens, and of gaps between tokens, of more than PART."""
    borders = np.unique(np.concatenate([[0, len(text)], spans.starts, spans.ends]))
    kept, done = list[str](), 0
    for place in np.flatnonzero(np.diff(borders) > PART):
        start, end = int(borders[place]), int(borders[place + 1])
        kept += [text[done : start + _KEPT], text[end - _KEPT : end]]
        done = end
    return "".join([*kept, text[done:]])


def shorten_texts(
    tokenizer: Any, texts: Sequence[str], count: int, *, tail: bool = False
) -> Sequence[str]:
    """Shorten a text, or both of a pair, for truncation to `count` tokens.

    The library keeps what it truncates of a pair as each piece of one text beside each of the
    other, gigabytes of them.
    """
    if len(texts) == 1:
        return [shorten_text(tokenizer, texts[0], count, tail=tail)]
    if max(map(len, texts)) <= WINDOW or not tokenizer.is_fast:
        return texts
    short = [shorten_text(tokenizer, text, count, tail=tail) for text in texts]
    spans = [token_spans(tokenizer, text) for text in short]
    if min(len(tokens.ids) for tokens in spans) < count:
        return short
    # Truncation gives an odd token to the longer text.
    sizes = [_count_long(tokenizer, len(tokenizer), text) for text in texts]
    kept = [count + _MARGIN * (2 if size == max(sizes) > min(sizes) else 1) for size in sizes]
    return [
        _cut(text, tokens, number, tail)
        for text, tokens, number in zip(short, spans, kept, strict=True)
    ]


def _cut(text: str, spans: Spans, count: int, tail: bool) -> str:
    """Return the part of a text with its first or last `count` tokens."""
    if len(spans.ids) <= count:
        return text
    return text[spans.starts[-count] :] if tail else text[: spans.ends[count - 1]]


@lru_cache(maxsize=4)
def _count_long(tokenizer: Any, vocabulary: int, text: str) -> int:
    """Count the tokens of a text whose number is needed each time that it is read."""
    return count_tokens(tokenizer, text)


def without_middle(tokenizer: Any, text: str, count: int) -> tuple[str, int]:
    """Remove the middle of a long text; also return the number of characters of it.

    The first and the last `count` tokens stay the same.
    """
    head, is_cut = _shorten(tokenizer, text, count, tail=False)
    if not is_cut:
        return head, 0
    tail = shorten_text(tokenizer, text, count, tail=True)
    removed = len(text) - len(head) - len(tail)
    return (f"{head} {tail}", removed) if removed > 0 else (text, 0)


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
