"""Functions for data.map that turn sample data into the rows of the shipped configs."""

from __future__ import annotations

from finetune.task_parts.samples import Row

BODY_WORDS = 120


def bbc_headline(row: Row) -> Row | None:
    """Split a BBC News article: {"headline": its first line, "body": the next 120 words}.

    None if nothing follows the headline.
    """
    headline, _, body = row["text"].strip().partition("\n")
    words = body.split()
    return {"body": " ".join(words[:BODY_WORDS]), "headline": headline.strip()} if words else None
