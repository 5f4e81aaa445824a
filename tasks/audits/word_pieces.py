"""Words of a text as its tokenizer has divided it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTINUES, STARTS = "##", ("▁", "Ġ")
"""Marks of a token that continues a word (WordPiece), or that starts one (SentencePiece, BPE)."""


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that frame a text or fill it up, but stand for no word of it."""
    unknown = tokenizer.unk_token_id
    roles = ("bos", "eos", "pad", "cls", "sep", "mask")
    framing = {getattr(tokenizer, f"{role}_token_id") for role in roles}
    return {n for n in tokenizer.all_special_ids if n != unknown or n in framing}


def group_words(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Return the words of token ids, each with the positions of its tokens; no special tokens."""
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    special = special_ids(tokenizer)
    marks_starts = any(token.startswith(STARTS) for token in tokens)
    groups: list[list[int]] = []
    joins = False  # a special token ends a word
    for position, (token, index) in enumerate(zip(tokens, ids, strict=True)):
        if index in special:
            joins = False
            continue
        continues = not token.startswith(STARTS) if marks_starts else token.startswith(CONTINUES)
        if joins and continues:
            groups[-1].append(position)
        else:
            groups.append([position])
        joins = True
    return [
        (tokenizer.convert_tokens_to_string([tokens[n] for n in group]).strip(), group)
        for group in groups
    ]
