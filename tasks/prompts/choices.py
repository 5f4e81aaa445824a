"""Choices of a question, as lines of a prompt and as its answer.

["Rome", "Oslo"] with the answer 1, "1", "B" or "Oslo"
{"text": ["Rome", "Oslo"], "label": ["A", "B"]} with the answer "B"
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from tasks.cells.choice_columns import labeled_choices


def choice_lines(value: Any) -> str | None:
    """Render choices a line each, "A. Rome"; None if a cell holds none."""
    choices = labeled_choices(value)
    return "\n".join(f"{label}. {text}" for label, text in choices.items()) or None


def chosen_text(value: Any, answer: Any) -> str | None:
    """Return the text of the choice that an answer names by its index, label or text."""
    choices = labeled_choices(value)
    if isinstance(answer, str) and answer.strip() in choices:
        return choices[answer.strip()]
    if isinstance(answer, str) and answer in choices.values():
        return answer
    texts = list(choices.values())
    place = _index(answer)
    return texts[place] if place is not None and place < len(texts) else None


def letter_of(answer: Any) -> str | None:
    """Return the letter of an index from 0, or an answer that is a letter already."""
    if isinstance(answer, str) and answer.strip().upper() in tuple(ascii_uppercase):
        return answer.strip().upper()
    place = _index(answer)
    return ascii_uppercase[place] if place is not None and place < len(ascii_uppercase) else None


def _index(answer: Any) -> int | None:
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        return None
    return int(answer) if str(answer).strip().isdigit() else None
