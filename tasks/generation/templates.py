"""Templates that make one text of a row's columns: "Article: {body}\\nHeadline:".

A field is the name of a column; {translation.en} or {translation[en]} looks inside a nested one.
`{{` and `}}` stand for braces. Nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from finetune.errors import DataError, nearest
from finetune.task_parts import Row


def find_template(given: str, key: str, columns: Iterable[str]) -> str:
    """The template that `given` means: itself, or the name of a column.

    Raises DataError if it has no field, or a field that no column fills.
    """
    names = list(columns)
    if given in names:
        return f"{{{given}}}"
    try:
        fields = list(_fields(given))
    except ValueError as error:
        raise DataError(
            f"{key}: {given!r} is no template: {error}; a field is {{column}}, and braces that are "
            "text are written twice"
        ) from error
    if not fields:
        raise DataError(
            f"{key}: {given!r} is no column and has no {{column}} in it; {nearest(given, names)}"
        )
    for name in map(_column, fields):
        if name not in names:
            raise DataError(f"{key}: there is no column {name!r}; {nearest(name, names)}")
    return given


def columns_of(template: str) -> list[str]:
    """The columns that a template reads, each once."""
    return list(dict.fromkeys(_column(field) for field in _fields(template)))


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """The template's text for a row. Raises KeyError for what is neither text nor number."""
    parts = []
    for literal, field, _, _ in Formatter().parse(template):
        parts.append(literal)
        if field is not None:
            parts.append(_text(field, row))
    return "".join(parts)


def template_faults(template: str, row: Row) -> Iterator[str]:
    """What keeps a row from filling a template."""
    for field in dict.fromkeys(_fields(template)):
        try:
            _text(field, row)
        except KeyError as error:
            yield str(error.args[0])


def _fields(template: str) -> Iterator[str]:
    for _, field, spec, conversion in Formatter().parse(template):
        if field is None:
            continue
        if spec or conversion:
            raise ValueError(f"{field} is given a format, {spec or conversion!r}")
        if not field:
            raise ValueError("a field has no name")
        yield field


def _column(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def _text(field: str, row: Mapping[str, Any]) -> str:
    name = _column(field)
    value: Any = row.get(name)
    for step in _steps(field[len(name) :]):
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, str | int | float):
        return str(value)
    raise KeyError(f"{field} is {value!r:.80}, not text")


def _steps(path: str) -> list[str]:
    """The steps of .en or [en][text]."""
    return [step for step in path.replace("[", ".").replace("]", "").split(".") if step]
