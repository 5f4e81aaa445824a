"""Detection of the text and label columns of a table, by name or by values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from finetune.errors import AmbiguityError, DataError, listed, nearest
from tasks.cells.indicators import indicator_columns, indicator_mapping, notations
from tasks.cells.picture_questions import names_image

TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "body",
    "document",
    "review",
    "article",
    "message",
    "comment",
)
TITLE_NAMES = ("title", "headline", "heading", "subject")
LABEL_NAMES = ("label", "labels")
"""Names that decide, whatever the other columns are called."""
LIKELY_LABEL_NAMES = frozenset(
    {"class", "category", "target", "topic", "sentiment", "intent", "emotion", "polarity", "genre"}
    | {"classes", "categories", "topics", "intents", "emotions", "genres", "tags", "keywords"}
    | {"classindex", "classid", "classlabel", "classname", "labelid", "labelindex", "labelname"}
    | {"categoryid", "categoryname", "goldlabel", "gold", "y", "isduplicate", "stars"}
    | {"star", "rating", "score", "similarity", "similarityscore", "relatednessscore"}
    | {"diagnosis", "species", "entailmentjudgment", "entailmentlabel", "judgment", "verdict"}
)
"""Names without case and punctuation of columns that are usually the label."""
ANSWER_NAMES = frozenset(
    {
        "completion",
        "response",
        "output",
        "answer",
        "summary",
        "highlights",
        "headline",
        "translation",
    }
    | {"chosen", "rejected", "messages", "conversations"}
)
"""Names of columns that are generated, and a label only if a key says so."""
VERDICTS = frozenset({"accept", "reject", "ignore"})
"""What annotators decide about a row, in a column of its own, as Prodigy exports it."""
_IDENTIFIER = re.compile(
    r"(^|.*[_\s-])(id|ids|idx|index|uuid|guid|qid|url|date|time|timestamp|utc|created|updated)\d*$"
)
# Several words in a script that has no blanks between them: Chinese, Japanese, Thai, Lao, Khmer.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{8}")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}")
# Columns that describe rows of a corpus, and hold no label that a person would predict.
_METADATA_NAMES = frozenset({"meta", "metadata", "metainfo", "info", "extra"})
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)
MANY = 20  # values from which shares of them mean something
MOST_SHOWN = 12  # columns that a message lists


def find_column(
    configured: str | None,
    role: str,
    columns: Mapping[str, Sequence[Any]],
    usual_names: Sequence[str],
    candidates: Sequence[str],
) -> tuple[str, str | None]:
    """Return the column for a role ("text", "label"), and a note if it was detected.

    It is the `configured` column, else one with a usual name, else the only candidate. Otherwise
    raises DataError.
    """
    if configured is not None:
        if configured not in columns:
            hint = nearest(configured, columns) if columns else "all columns are read as input"
            raise DataError(f"task.{role}: there is no column {configured!r}; {hint}")
        return configured, None
    lowered = {name.lower(): name for name in columns}
    for name in usual_names:
        if name in lowered:
            return lowered[name], f"{role}: column {lowered[name]!r}, by its name"
    if len(candidates) == 1:
        return candidates[0], f"{role}: column {candidates[0]!r}, the only candidate"
    choices = listed(map(repr, candidates or columns), MOST_SHOWN) or "none"
    raise DataError(
        f"task.{role}: cannot tell which column is the {role} (candidates: {choices}); "
        f"set task.{role}=COLUMN"
    )


def prose_columns(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns whose first values look like prose: most have several words."""
    prose = []
    for name, values in columns.items():
        texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        dates = sum(bool(_DATE.match(text)) for text in texts)
        if texts and sum(map(_has_words, texts)) > len(texts) / 2 and dates < len(texts):
            prose.append(name)
    return prose


def _has_words(text: str) -> bool:
    return " " in text or bool(_UNSPACED.search(text))


def counts_rows(values: Sequence[Any]) -> bool:
    """True if a column numbers the rows: consecutive integers."""
    try:
        numbers = [int(value) for value in values]
    except (TypeError, ValueError):
        return False
    return len(numbers) > 2 and all(b == a + 1 for a, b in itertools.pairwise(numbers))


# ---- the column of the label


def plain_name(name: str) -> str:
    """Return a column name in lower case without punctuation: "Class Index" is "classindex"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_label(columns: Mapping[str, Sequence[Any]]) -> tuple[str | list[str], str]:
    """Return the label column, or the columns of zeros and ones that are labels, and a note.

    `columns` are those that are not read as input. Raises AmbiguityError if several columns could
    be the label, DataError if none could.
    """
    decisive = [name for name in columns if plain_name(name) in LABEL_NAMES]
    likely = [name for name in columns if plain_name(name) in LIKELY_LABEL_NAMES]
    for names in (decisive, [name for name in likely if not is_free_text(columns[name])]):
        if len(names) > 1:
            raise _ambiguous(names, columns)
        if names:
            return names[0], f"label: column {names[0]!r}, by its name"
    others = [name for name, values in columns.items() if could_be_label(name, values)]
    binary = indicator_columns({name: columns[name] for name in others})
    if len(others) > 1 and binary == others and len(notations(columns, binary)) == 1:
        shown = listed(map(repr, binary), MOST_SHOWN)
        return binary, f"label: columns {shown}, which hold zeros and ones, or yes and no"
    if len(others) == 1:
        return others[0], f"label: column {others[0]!r}, the only candidate"
    if others:
        raise _ambiguous(others, columns)
    _refuse_doubtful(columns)
    raise DataError(
        f"task.label: no column looks like a label (candidates: none); looked for a column named "
        "label, class, category, target, sentiment, ..., for one with recurring values, and for "
        f"columns of zeros and ones; {_seen(columns)}; set task.label=COLUMN"
    )


def _refuse_doubtful(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raise AmbiguityError for numbers or objects that may be the label, though none looks so."""
    for name, values in columns.items():
        known = [value for value in values if value is not None and value not in ("", [], {})]
        if not known or _IDENTIFIER.match(name.lower()) or plain_name(name) in _METADATA_NAMES:
            continue
        if all(_NUMBER.fullmatch(str(value).strip()) for value in known) and not counts_rows(known):
            raise AmbiguityError(
                f"task.label: no column looks like a label, but {name!r} holds numbers that hardly"
                f" recur, such as {known[0]!r}; set task.label={name} task.kind=number if they are"
                " to be predicted"
            )
        objects = [item for value in known for item in _items(value) if isinstance(item, dict)]
        if objects and plain_name(name) not in ANSWER_NAMES:
            raise AmbiguityError(
                f"task.label: no column looks like a label, but {name!r} holds objects with"
                f" {listed(map(repr, objects[0]), MOST_SHOWN)}; if a label is in them, write it as"
                " a column with data.map=file.py:function"
            )


def refuse_rejected_rows(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raise AmbiguityError if a column says that annotators rejected rows."""
    for name, values in columns.items():
        verdicts = [value for value in values if isinstance(value, str)]
        others = sum(verdict != "accept" for verdict in verdicts)
        if "accept" in verdicts and others and VERDICTS.issuperset(verdicts):
            raise AmbiguityError(
                f"column {name!r} marks {others} of the first {len(values)} rows as rejected or "
                "ignored, and training would learn them like the accepted ones; drop them in the "
                "file or with data.map=file.py:function, or leave the column out"
            )


def could_be_label(name: str, values: Sequence[Any]) -> bool:
    """True unless a column holds identifiers, dates, free text, images, objects or answers."""
    known = [value for value in values if value is not None and value not in ("", [], {})]
    has_objects = any(isinstance(item, dict) for value in known for item in _items(value))
    if has_objects and not all(map(indicator_mapping, known)):
        return False
    if not known or _IDENTIFIER.match(name.lower()) or name.lower().startswith("unnamed"):
        return False
    if any(map(names_image, known)):
        return False
    if _is_answer(name, {name: values}) or is_free_text(values) or counts_rows(values):
        return False
    if all(isinstance(v, date) or (isinstance(v, str) and _DATE.match(v)) for v in known):
        return False
    distinct = len({str(value) for value in known})
    is_unique = len(known) >= MANY and distinct > 0.9 * len(known)
    return not (is_unique and all(isinstance(value, str) for value in known))


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def is_free_text(values: Sequence[Any]) -> bool:
    """True if most values of a column, or of its lists, are sentences that do not recur."""
    known = [item for value in values for item in _items(value) if item is not None]
    texts = [item for item in known if isinstance(item, str) and item.strip()]
    if not texts or any(not isinstance(item, str) for item in known):
        return False
    words = sum(len(text.split()) for text in texts) / len(texts)
    distinct = len(set(texts)) / len(texts)
    return distinct > 0.5 and (words > 8 or (words > 3 and distinct > 0.9 and len(texts) >= MANY))


def _is_answer(name: str, columns: Mapping[str, Sequence[Any]]) -> bool:
    """True for a column named like a generated text, unless its values are true and false."""
    return plain_name(name) in ANSWER_NAMES and name not in indicator_columns(columns)


def _ambiguous(names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> AmbiguityError:
    binary = indicator_columns({name: columns[name] for name in names})
    binary = max(notations(columns, binary).values(), key=len, default=[])
    several = f", or task.label=[{','.join(binary)}] for several labels" if len(binary) > 1 else ""
    example = next((name for name in names if name not in binary), names[0])
    return AmbiguityError(
        "task.label: cannot tell which column is the label (candidates: "
        f"{listed(map(repr, names), MOST_SHOWN)}); set task.label=COLUMN, such as "
        f"task.label={example}{several}"
    )


def _seen(columns: Mapping[str, Sequence[Any]]) -> str:
    """Describe the columns that were considered."""
    if not columns:
        return "all columns are read as input"
    reasons = [f"{name!r} ({_reason(name, values)})" for name, values in columns.items()]
    return f"seen: {listed(reasons, MOST_SHOWN)}"


def _reason(name: str, values: Sequence[Any]) -> str:
    if counts_rows(values):
        return "numbers the rows"
    if _is_answer(name, {name: values}):
        return "a text to generate, by its name"
    if is_free_text(values):
        return "free text"
    return (
        "identifiers, dates or objects" if any(value is not None for value in values) else "empty"
    )
