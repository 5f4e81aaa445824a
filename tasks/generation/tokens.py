"""Tokens of a text with a loss mask: tokenizing pieces, adding special tokens, truncating.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.generation.generation_config import Truncation
from tasks.prompts.dialogues import Piece
from tasks.text.long_texts import count_tokens, token_spans, without_middle


class Tokens(NamedTuple):
    """Token ids [T] and their loss mask [T]: True for tokens that carry loss."""

    ids: list[int]
    loss_mask: list[bool]

    @property
    def first_target(self) -> int:
        """Index of the first token that carries loss; T if none does."""
        return self.loss_mask.index(True) if any(self.loss_mask) else len(self.ids)

    @property
    def target_count(self) -> int:
        """Number of tokens with loss; the first token has none, since nothing precedes it."""
        return sum(self.loss_mask[1:])


def start_token(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer prepends to every text; None if it prepends none."""
    first, bos = tokenizer("a").input_ids[0], tokenizer.bos_token_id
    return bos if bos is not None and bos == first else None


def special_token_notes(tokenizer: Any) -> list[str]:
    """Return a note if the tokenizer has no end token, or no padding token other than that."""
    if tokenizer.eos_token_id is None:
        return [
            "end token: the tokenizer has none, so generated text stops at task.max_new_tokens only"
        ]
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        token = tokenizer.eos_token
        return [
            f"padding token: {token!r}, the end token; padding carries no loss, but the end of a "
            "text does"
        ]
    return []


def tokenize_pieces(tokenizer: Any, pieces: Sequence[Piece]) -> Tokens:
    """Tokenize the concatenated pieces, without special tokens around them.

    The tokens are those of the whole text, unless one would span two pieces. Then each piece is
    tokenized alone, because at inference the model continues a prompt that ends at a token border.
    """
    text = "".join(piece.text for piece in pieces)
    if tokenizer.is_fast:
        spans, borders = token_spans(tokenizer, text), np.cumsum([len(p.text) for p in pieces])
        # A token without characters at the end of the text belongs to the last piece.
        owners = np.minimum(np.searchsorted(borders, spans.starts, "right"), len(pieces) - 1)
        if bool((spans.ends <= borders[owners]).all()):
            has_loss = np.array([piece.has_loss for piece in pieces])
            return Tokens(spans.ids.tolist(), has_loss[owners].tolist())
    ids, loss_mask = list[int](), list[bool]()
    for piece in pieces:
        piece_ids = tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        ids += piece_ids
        loss_mask += [piece.has_loss] * len(piece_ids)
    return Tokens(ids, loss_mask)


def shorten_pieces(tokenizer: Any, pieces: Sequence[Piece], count: int) -> tuple[list[Piece], int]:
    """Remove the middle of long pieces, which truncation to `count` tokens would remove.

    Also return an estimate of the number of its tokens.
    """
    short, tokens = list[Piece](), 0
    for piece in pieces:
        text, removed = without_middle(tokenizer, piece.text, count)
        if removed > 0:
            tokens += round(removed * count_tokens(tokenizer, text) / len(text))
        short.append(Piece(text, piece.has_loss))
    return short, tokens


def add_start_token(tokens: Tokens, token: int | None) -> Tokens:
    """Prepend the start token, without loss, unless the tokens begin with it."""
    if token is None or tokens.ids[:1] == [token]:
        return tokens
    return Tokens([token, *tokens.ids], [False, *tokens.loss_mask])


def add_end_token(tokens: Tokens, token: int | None) -> Tokens:
    """Append the end token unless the tokens end with it; it carries loss in both cases."""
    if token is None:
        return tokens
    if tokens.ids[-1:] == [token]:
        return Tokens(tokens.ids, [*tokens.loss_mask[:-1], True])
    return Tokens([*tokens.ids, token], [*tokens.loss_mask, True])


def truncate_tokens(
    tokens: Tokens, max_length: int, truncation: Truncation, keep_start: int = 0
) -> Tokens:
    """Truncate to `max_length` tokens; drop and refuse give no tokens at all if they are too many.

    prompt: cut the start of the prompt after its first `keep_start` tokens, then the end if that
    is not enough; end: cut the end.
    """
    over = len(tokens.ids) - max_length
    if over <= 0:
        return tokens
    if truncation in ("drop", "refuse"):
        return Tokens([], [])
    skip = max(min(over, tokens.first_target - keep_start), 0) if truncation == "prompt" else 0
    ids = [*tokens.ids[:keep_start], *tokens.ids[keep_start + skip :]] if skip else tokens.ids
    loss_mask = (
        [False] * keep_start + tokens.loss_mask[keep_start + skip :] if skip else tokens.loss_mask
    )
    return Tokens(ids[:max_length], loss_mask[:max_length])


class Chunk(NamedTuple):
    """A piece of a text: token ids, int32 [T], of which the `masked` first carry no loss."""

    ids: np.ndarray
    masked: int


def chunk_tokens(ids: np.ndarray, masked: int, max_length: int, keep_start: int = 0) -> list[Chunk]:
    """Split a text, int32 [T], into pieces of at most `max_length` tokens.

    Each of its tokens but the first `masked` carries loss in one piece. Every piece begins with the
    first `keep_start` tokens of the text, and repeats the last token of the piece before it,
    without loss, so that its first token has a context.
    """
    head, step = ids[:keep_start], max(max_length - keep_start - 1, 1)
    return [
        Chunk(ids[:max_length], masked),
        *(
            Chunk(np.concatenate([head, ids[start - 1 : start + step]]), keep_start + 1)
            for start in range(max_length, len(ids), step)
        ),
    ]


def truncate_prompt(ids: Sequence[int], max_length: int, keep_start: int = 0) -> list[int]:
    """Truncate a prompt to its first `keep_start` tokens and its last ones."""
    if len(ids) <= max_length:
        return list(ids)
    return [*ids[:keep_start], *ids[len(ids) - max_length + keep_start :]]
