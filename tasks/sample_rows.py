"""Rows for the shipped configs, made of sample data (data.map)."""

from __future__ import annotations

from finetune.task_parts import Row

WORDS = 120


def bbc_headline(row: Row) -> Row | None:
    """An article of BBC News, whose first line is its headline: {"body": 120 words, "headline"}."""
    headline, _, body = row["text"].strip().partition("\n")
    words = body.split()
    return {"body": " ".join(words[:WORDS]), "headline": headline.strip()} if words else None
