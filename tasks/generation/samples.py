"""Some prompts with what was written before training and after it, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Characters of a prompt that the table shows, its end: that is where the question stands.
SHOWN = 300


class Sampled(NamedTuple):
    """A prompt, what should be written, and what was."""

    prompt: str
    reference: str
    before: str
    after: str


def write_samples(samples: Sequence[Sampled], folder: Path) -> list[Path]:
    """samples.jsonl, and samples.md for people."""
    lines, table = folder / "samples.jsonl", folder / "samples.md"
    rows = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in samples]
    lines.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    head = ["| " + " | ".join(Sampled._fields) + " |", "|---" * len(Sampled._fields) + "|"]
    body = ["| " + " | ".join(map(_cell, sample)) + " |" for sample in samples]
    table.write_text("\n".join([*head, *body, ""]), encoding="utf-8")
    return [lines, table]


def _cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if len(words) <= SHOWN else f"... {words[-SHOWN:]}"
