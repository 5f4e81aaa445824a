"""Plain texts of more than max_length tokens, split into pieces so that no token is lost.

Pieces are parts of a row (`Task.parts`), so no piece holds tokens of two rows. The parts of one:

{"text_chunk": {"ids": [17, 4, ...], "masked": 0}}
{"text_chunk": {"ids": [9, 2, ...], "masked": 1}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.task_parts.samples import Row, each_row
from tasks.generation.codecs import CausalCodec
from tasks.generation.tokens import Tokens, chunk_tokens
from tasks.prompts.prompts import Exchange, make_exchange
from tasks.text.long_texts import token_spans

CHUNK = "text_chunk"
"""Key of a part, which has the token ids of a piece and the number of first ones without loss."""


def chunk_rows(codec: CausalCodec, config: Any, rows: Sequence[Row]) -> list[list[Row]]:
    """Return the pieces of each row as its parts; a text that is short enough has one, {}."""
    parts: list[list[Row]] = []
    for row in each_row(rows):
        exchange = make_exchange(config, codec.tokenizer, row)
        # No tokenizer makes more tokens than bytes, but for a start, an end and a leading space.
        if len(exchange.prompt.encode("utf-8", "surrogatepass")) + 3 <= codec.max_length:
            parts.append([{}])
            continue
        ids, masked = document_ids(codec, exchange)
        pieces = chunk_tokens(ids, masked, codec.max_length, int(codec.start is not None))
        parts.append([{}] if len(pieces) == 1 else [{CHUNK: piece._asdict()} for piece in pieces])
    return parts


def document_ids(codec: CausalCodec, row: Exchange) -> tuple[np.ndarray, int]:
    """Return the tokens of `codec.whole`, int32 [T], and the number of first ones without loss.

    A text of megabytes has millions, whose lists take seconds.
    """
    assert row.sequences is not None
    pieces, tokenizer = row.sequences[0], codec.tokenizer
    if len(pieces) > 1 or not pieces[0].has_loss or not tokenizer.is_fast or not codec.adds_ends:
        whole = codec.whole(row)
        return np.array(whole.ids, dtype=np.int32), whole.first_target
    ids = token_spans(tokenizer, pieces[0].text).ids
    start, end = codec.start, tokenizer.eos_token_id
    first = [] if start in (None, *ids[:1]) else [start]
    last = [] if end in (None, *ids[-1:]) else [end]
    arrays = [np.array(each, dtype=np.int32) for each in (first, ids, last)]
    return np.concatenate(arrays), len(first)


def chunk_of(row: Row) -> Tokens | None:
    """Return the tokens of a part; None for a whole row."""
    if CHUNK not in row:
        return None
    ids, masked = row[CHUNK]["ids"].tolist(), row[CHUNK]["masked"]
    return Tokens(ids, [False] * masked + [True] * (len(ids) - masked))
