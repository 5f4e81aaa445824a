"""Count of the characters that a tokenizer reads."""

from __future__ import annotations

from typing import Any

import pytest


def characters_read(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each text that the tokenizer reads from now on adds its length."""
    read, encode = list[int](), type(tokenizer).__call__

    def count(self: Any, *texts: Any, **keys: Any) -> Any:
        given = [*texts, keys.get("text_target")]
        read.append(sum(map(_characters, given)))
        return encode(self, *texts, **keys)

    monkeypatch.setattr(type(tokenizer), "__call__", count)
    return read


def _characters(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(_characters, text or []))
