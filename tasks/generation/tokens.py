"""Pieces of text -> token ids, which of them carry loss, and the tokens that begin and end a text.

Shapes: T tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from tasks.generation.dialogues import Piece

Truncation = Literal["prompt", "end", "drop", "refuse"]


class Tokens(NamedTuple):
    """Token ids [T], and of each whether it carries loss."""

    ids: list[int]
    is_learned: list[bool]

    @property
    def first_learned(self) -> int:
        return self.is_learned.index(True) if any(self.is_learned) else len(self.ids)

    @property
    def learned_count(self) -> int:
        """How many tokens carry loss: the first of a text follows nothing, so it cannot."""
        return sum(self.is_learned[1:])


def start_token(tokenizer: Any) -> int | None:
    """The token that this tokenizer itself puts before a text, if it does."""
    first, own = tokenizer("a").input_ids[0], tokenizer.bos_token_id
    return own if own is not None and own == first else None


def end_notes(tokenizer: Any) -> list[str]:
    """A sentence on what ends and what pads a text, where that is not what one would expect."""
    if tokenizer.eos_token_id is None:
        return ["end token: the tokenizer has none, so what is written ends at task.max_new_tokens"]
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        token = tokenizer.eos_token
        return [f"padding token: {token!r}, the end token; what pads carries no loss, an end does"]
    return []


def tokenize(tokenizer: Any, pieces: Sequence[Piece]) -> Tokens:
    """The tokens of pieces that stand one behind the other, without any before or after them.

    They are those of the whole text, but where a token would stand in two pieces: a network is
    asked to go on from whole tokens, so it is taught that.
    """
    text = "".join(piece.text for piece in pieces)
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans, borders = encoded["offset_mapping"], list(accumulate(len(p.text) for p in pieces))
        owners = [bisect_right(borders, start) for start, _ in spans]
        if all(end <= borders[owner] for owner, (_, end) in zip(owners, spans, strict=True)):
            # A token that has no characters belongs to what stands before it.
            owners = [min(owner, len(pieces) - 1) for owner in owners]
            return Tokens(encoded["input_ids"], [pieces[owner].is_learned for owner in owners])
    ids, is_learned = list[int](), list[bool]()
    for piece in pieces:
        own = tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        ids += own
        is_learned += [piece.is_learned] * len(own)
    return Tokens(ids, is_learned)


def begin(tokens: Tokens, token: int | None) -> Tokens:
    """With the start token before them, unless they begin with it."""
    if token is None or tokens.ids[:1] == [token]:
        return tokens
    return Tokens([token, *tokens.ids], [False, *tokens.is_learned])


def end(tokens: Tokens, token: int | None) -> Tokens:
    """With the end token behind them, which carries loss, unless they end with it."""
    if token is None:
        return tokens
    if tokens.ids[-1:] == [token]:
        return Tokens(tokens.ids, [*tokens.is_learned[:-1], True])
    return Tokens([*tokens.ids, token], [*tokens.is_learned, True])


def cut(tokens: Tokens, longest: int, how: Truncation, kept: int = 0) -> Tokens:
    """At most `longest` tokens; of a row that is not to be cut, none.

    prompt: the start of what stands before the first learned token goes, but for `kept` tokens, and
    the end if that is not enough; end: the end goes.
    """
    over = len(tokens.ids) - longest
    if over <= 0:
        return tokens
    if how in ("drop", "refuse"):
        return Tokens([], [])
    spare = max(min(over, tokens.first_learned - kept), 0) if how == "prompt" else 0
    ids = [*tokens.ids[:kept], *tokens.ids[kept + spare :]] if spare else tokens.ids
    learned = [False] * kept + tokens.is_learned[kept + spare :] if spare else tokens.is_learned
    return Tokens(ids[:longest], learned[:longest])


def tail(ids: Sequence[int], longest: int, kept: int = 0) -> list[int]:
    """The last tokens of a prompt that is too long, behind its first `kept`."""
    if len(ids) <= longest:
        return list(ids)
    return [*ids[:kept], *ids[len(ids) - longest + kept :]]
