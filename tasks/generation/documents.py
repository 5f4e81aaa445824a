"""Plain texts of more than max_length tokens, split into pieces so that no token is lost.

Pieces are parts of a row (`Task.parts`), so no piece holds tokens of two rows. The parts of one:

{"text_chunk": {"ids": [17, 4, ...], "masked": 0}}
{"text_chunk": {"ids": [9, 2, ...], "masked": 1}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.task_parts.samples import Row, each_row
from tasks.generation.codecs import CausalCodec
from tasks.generation.tokens import Tokens, chunk_tokens
from tasks.prompts.prompts import make_exchange

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
        whole = codec.whole(exchange)
        pieces = chunk_tokens(whole, codec.max_length, int(codec.start is not None))
        parts.append([{}] if len(pieces) == 1 else [{CHUNK: piece._asdict()} for piece in pieces])
    return parts


def chunk_of(row: Row) -> Tokens | None:
    """Return the tokens of a part; None for a whole row."""
    if CHUNK not in row:
        return None
    ids, masked = row[CHUNK]["ids"].tolist(), row[CHUNK]["masked"]
    return Tokens(ids, [False] * masked + [True] * (len(ids) - masked))
