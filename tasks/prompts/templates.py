"""Templates that combine a row's columns into one text: "Article: {body}\\nHeadline:".

A field is the name of a column; {translation.en} or {translation[en]} accesses a nested value, and
{answers[text][0]} an item of a list. A column that adds to a prompt, such as `input`, may be null.
{choices} or {options} renders choices a line each, {choices@answer} is the text of the choice that
the column `answer` names, and {answer:letter} its letter. `{{` and `}}` are literal braces. Nothing
is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from finetune.errors import DataError, nearest
from finetune.task_parts.samples import Row
from tasks.cells.choice_columns import CHOICE_NAMES
from tasks.prompts.choices import choice_lines, chosen_text, letter_of

LETTER = "letter"
# Columns that go into a prompt beside the question, in lower case. Many rows leave them empty.
CONTEXT_NAMES = (
    "input",
    "context",
    "passage",
    "background",
    "reference",
    "system",
    "system_prompt",
    "system_message",
    "history",
)


def resolve_template(value: str, key: str, columns: Iterable[str]) -> str:
    """Return the template that a config value stands for: itself, or {column} for a column name.

    Raises DataError if a template has no field, or a field for which there is no column.
    """
    names = list(columns)
    if value in names:
        return f"{{{value}}}"
    try:
        fields = list(_fields(value))
    except ValueError as error:
        raise DataError(
            f"{key}: {value!r} is not a valid template: {error}; a field is {{column}}, and "
            "literal braces are doubled"
        ) from error
    if not fields:
        raise DataError(
            f"{key}: {value!r} is neither a column nor a template with a {{column}}; "
            f"{nearest(value, names)}"
        )
    for name in template_columns(value):
        if name not in names:
            raise DataError(f"{key}: there is no column {name!r}; {nearest(name, names)}")
    return value


def template_columns(template: str) -> list[str]:
    """List the columns that a template reads, without repetition."""
    fields = (_split_field(field) for field in _fields(template))
    return list(
        dict.fromkeys(name for column, _, other in fields for name in (column, other) if name)
    )


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """Fill a template from a row. Raises KeyError if a value is neither text nor a number."""
    parts = []
    for literal, field, spec, _ in Formatter().parse(template):
        parts.append(literal)
        if field is not None:
            parts.append(_text(f"{field}:{spec}" if spec else field, row))
    return "".join(parts)


def template_faults(template: str, row: Row) -> Iterator[str]:
    """Yield a message for each field that a row cannot fill."""
    for field in dict.fromkeys(_fields(template)):
        try:
            _text(field, row)
        except KeyError as error:
            yield str(error.args[0])


def _fields(template: str) -> Iterator[str]:
    for _, field, spec, conversion in Formatter().parse(template):
        if field is None:
            continue
        if (spec and spec != LETTER) or conversion:
            raise ValueError(
                f"{field} has a format, {spec or conversion!r}, which is not supported"
            )
        if not field:
            raise ValueError("a field has no name")
        yield f"{field}:{spec}" if spec else field


def _split_field(field: str) -> tuple[str, str, str]:
    """Split a field into its column, its path and the column of an answer: ("a", "[b]", "")."""
    path, _, answer = field.partition(":")[0].partition("@")
    column = path.partition(".")[0].partition("[")[0]
    return column, path[len(column) :], answer


def _text(field: str, row: Mapping[str, Any]) -> str:
    name, path, answer = _split_field(field)
    value: Any = row.get(name)
    for step in _steps(path):
        value = _item(value, step)
    if answer:
        text = chosen_text(value, row.get(answer))
        if text is None:
            raise KeyError(f"{answer} is {row.get(answer)!r:.80}, none of the choices of {name}")
        return text
    if field.endswith(f":{LETTER}"):
        value = letter_of(value)
    if value is None and name.lower() in CONTEXT_NAMES:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    lines = choice_lines(value) if name.lower() in CHOICE_NAMES else None
    if lines is None:
        raise KeyError(f"{field} is {value!r:.80}, not text")
    return lines


def _item(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and step.isdigit() and int(step) < len(value):
        return value[int(step)]
    return None


def _steps(path: str) -> list[str]:
    """Split a path such as .en or [en][text] into its keys."""
    return [step for step in path.replace("[", ".").replace("]", "").split(".") if step]
