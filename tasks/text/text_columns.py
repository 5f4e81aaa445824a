"""Detection of the text: a column, the two of a pair, or those of a title and a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune.errors import AmbiguityError, DataError, listed
from tasks.cells.choice_columns import find_answer, find_choices
from tasks.cells.picture_questions import refuse_picture_questions
from tasks.classification.label_columns import (
    LABEL_NAMES,
    LIKELY_LABEL_NAMES,
    MOST_SHOWN,
    TEXT_NAMES,
    TITLE_NAMES,
    find_column,
    is_free_text,
    plain_name,
    prose_columns,
)

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("sentencea", "sentenceb"),
    ("sent1", "sent2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "document"),
    ("query", "passage"),
    ("query", "text"),
    ("claim", "evidence"),
)
"""Usual names of a pair of texts, without case and punctuation."""
LABELED_PAIRS = (("question", "answer"), ("prompt", "response"), ("text", "summary"))
"""Names of a prompt and its answer, which are a pair beside a column that is called label."""
BODY_NAMES = (*TEXT_NAMES, "description", "abstract", "plot", "overview", "story", "selftext")
TITLE_JOIN = " "
NUMBERS = (("1", "2"), ("_a", "_b"), ("A", "B"))
"""Parts in which the names of a pair differ: "#1 String" and "#2 String"."""


class TextChoice(NamedTuple):
    """The columns of the text.

    Attributes:
        columns: a column, or a list of two.
        join: text between joined columns; None for a pair.
        note: a sentence on the choice, "" if it was configured.
    """

    columns: str | list[str]
    join: str | None
    note: str


def choose_text(columns: Mapping[str, Sequence[Any]], label: Sequence[str]) -> TextChoice:
    """Choose the text among columns other than the configured `label`, by names, else by values.

    Raises AmbiguityError if several columns could be the text.
    """
    _refuse_choices(columns)
    refuse_picture_questions(columns)
    rest = {
        name: values
        for name, values in columns.items()
        if name not in label and not any(isinstance(value, dict | list) for value in values)
    }
    if pair := _find_pair(rest):
        note = f"text: the pair of columns {pair[0]!r} and {pair[1]!r}, by their names"
        return TextChoice(pair, None, note)
    prose = prose_columns(rest)
    if len(prose) > 1:
        labels = {*LABEL_NAMES, *LIKELY_LABEL_NAMES}
        unlikely = [n for n in prose if plain_name(n) not in labels or is_free_text(rest[n])]
        prose = unlikely or prose
    title, body = _find_title(rest), _find_body(rest, prose)
    if title and body:
        note = (
            f"text: columns {title!r} and {body!r} joined, by their names "
            f"(task.text={body!r} reads one of them)"
        )
        return TextChoice([title, body], TITLE_JOIN, note)
    if body is None and len(prose) > 1:
        names = listed(map(repr, prose), MOST_SHOWN)
        raise AmbiguityError(
            f"task.text: cannot tell which column is the text (candidates: {names}); set "
            f"task.text=COLUMN, or task.text=[{prose[0]},{prose[1]}] for a pair of texts"
        )
    if not prose and not {name.lower() for name in rest}.intersection(TEXT_NAMES):
        raise DataError(
            "task.text: no column looks like a text; looked for one named"
            f" {listed(TEXT_NAMES, 5)}, for a pair ({' and '.join(PAIRS[0])},"
            f" {' and '.join(PAIRS[1])}, ...), for a title and a body, and for one of several"
            f" words; seen: {listed(map(_shown, rest.items()), MOST_SHOWN)}; set task.text=COLUMN,"
            " or task.text=[FIRST,SECOND] for a pair"
        )
    text, reason = find_column(None, "text", rest, TEXT_NAMES, prose)
    return TextChoice(text, None, reason or "")


def _shown(column: tuple[str, Sequence[Any]]) -> str:
    name, values = column
    first = next((value for value in values if value is not None and value != ""), None)
    return f"{name!r} (empty)" if first is None else f"{name!r} (such as {first!r:.40})"


def _find_pair(columns: Mapping[str, Sequence[Any]]) -> list[str] | None:
    """Return the two columns of a pair: by their usual names, or equal but for 1 and 2."""
    texts = {name: values for name, values in columns.items() if _holds_text(values)}
    plain = {plain_name(name): name for name in texts}
    has_label = any(plain_name(name) in LABEL_NAMES for name in columns)
    for first, second in (*PAIRS, *(LABELED_PAIRS if has_label else ())):
        if first in plain and second in plain:
            return [plain[first], plain[second]]
    prose = prose_columns(texts)
    for name in prose:
        for one, two in NUMBERS:
            other = name.replace(one, two)
            if one in name and other != name and other in prose and len(prose) == 2:
                return [name, other]
    return None


def _refuse_choices(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raise AmbiguityError for the choices of a question: its label is the number of one."""
    choices, answer = find_choices(columns), find_answer(columns)
    if choices and answer:
        raise AmbiguityError(
            f"a multiple-choice set: {answer!r} says which of the choices in"
            f" {listed(map(repr, choices), 4)} is right, which is not a label of one text; set"
            f" task.text=COLUMN with task.label={answer} to read two columns of it nonetheless"
        )


def _find_title(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """Return the column of a title: named so, with texts that hardly recur."""
    for title in TITLE_NAMES:
        for name in columns:
            if plain_name(name).endswith(title) and _holds_text(columns[name]):
                known = [value for value in columns[name] if value]
                if len(set(known)) > len(known) / 2:
                    return name
    return None


def _find_body(columns: Mapping[str, Sequence[Any]], prose: Sequence[str]) -> str | None:
    """Return the column of the text by its name, else the only prose beside a title."""
    plain = {plain_name(name): name for name in columns}
    for body in TEXT_NAMES:
        if body in plain:
            return plain[body]
    rest = [name for name in prose if not plain_name(name).endswith(TITLE_NAMES)]
    named = [plain[body] for body in BODY_NAMES if plain.get(body) in rest]
    return named[0] if named else rest[0] if len(rest) == 1 else None


def _holds_text(values: Sequence[Any]) -> bool:
    """True if all known values of a column are texts, and there are some."""
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, str) for value in known)
