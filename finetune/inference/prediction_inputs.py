"""The rows to predict, numbered from 1: those of a table, or the lines of standard input."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.opening import for_task, open_numbered_rows
from finetune.data.source import STANDARD_INPUT, Source
from finetune.data.validation import find_valid
from finetune.errors import ConfigError, DataError, format_count
from finetune.inference.predictor import as_rows, check_columns
from finetune.reporting.console import Console
from finetune.tables.encodings import DETECTED
from finetune.tables.faults import UNREADABLE, RowNumber
from finetune.task import Task
from finetune.task_parts.samples import Row


class NumberedRow(NamedTuple):
    """A row to predict, and its number in the input, from 1."""

    number: int
    row: Row
    reason: str | None = None
    """Why the input holds no row there, such as a line with too many cells."""


@dataclass(frozen=True)
class PredictionInputs:
    """The rows to predict.

    Attributes:
        total: their number; 0 if it is unknown.
        types: types of their columns, if they are known.
        notes: on how they were read.
    """

    rows: Iterable[NumberedRow]
    total: int = 0
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    notes: Sequence[str] = ()


def open_inputs(source: Source, task: Task, console: Console) -> PredictionInputs:
    """Open the rows to predict with all of their columns.

    With an explicit data.on_error=stop, raises DataError for rows that cannot be predicted; lines
    of standard input are checked as they arrive.
    """
    if source.reference == STANDARD_INPUT:
        return PredictionInputs(_read_lines(task, source.config, console))
    table, notes, numbers = open_table(source, task)
    rows = map(number_row, numbers, table)
    return PredictionInputs(rows, len(table), column_types(table), notes)


def open_table(source: Source, task: Task) -> tuple[Dataset, list[str], Sequence[int]]:
    """Return the table to predict, notes on how it was read, and the numbers of its rows.

    What could not be read has its reason in the column UNREADABLE.
    """
    config, data = for_task(source.config, task), source.reference
    if isinstance(data, list | tuple):
        data = list(as_rows(data, task))
    stops = stops_at_faults(config)
    table, notes, numbers = open_numbered_rows(
        data, config, source.split, task.config.formats, keeps_unreadable=not stops
    )
    check_columns(source.name, table.column_names, task)
    if stops:
        validate, columns = task.rows.validate_many, task.rows.inputs
        find_valid(source.name, table, validate, "stop", numbers, columns)
    return table, notes, numbers


def column_types(table: Dataset) -> dict[str, pa.DataType]:
    """Return the types of the columns that are the rows' own."""
    schema = table.features.arrow_schema
    types = dict(zip(schema.names, schema.types, strict=True))
    types.pop(UNREADABLE, None)
    return types


def number_row(number: int, row: Row) -> NumberedRow:
    """Return a row of a table with its number, or with the reason why it could not be read."""
    reason = row.pop(UNREADABLE, None)
    if reason and isinstance(number, RowNumber):
        reason = f"{number.place}, {reason}"
    return NumberedRow(number, row, reason)


def stops_at_faults(config: DataConfig) -> bool:
    """True if rows that cannot be predicted are an error: not by default, only if asked for."""
    return "on_error" in config.model_fields_set and config.on_error != "skip"


def _read_lines(task: Task, config: DataConfig, console: Console) -> Iterator[NumberedRow]:
    """Yield the lines of standard input as rows. Raises DataError for an invalid line."""
    if sys.stdin.isatty():
        console.print("enter one text per line; Ctrl-D ends the input")
    encodings = Counter[str]()
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        text, encoding = _decode(raw, number, config.encoding)
        encodings[encoding] += 1
        row = task.rows.from_value(text.rstrip("\r\n"))
        if stops_at_faults(config) and (faults := list(task.rows.validate(row))):
            raise DataError(
                f"standard input, line {number}: {'; '.join(faults)}; "
                "fix the line, or skip such lines with on_error=skip"
            )
        yield NumberedRow(number, row)
    for encoding in encodings if len(encodings) > 1 else ():
        count = format_count(encodings[encoding], "line")
        console.print(f"standard input: {count} read as {encoding}")


def _decode(raw: bytes, number: int, encodings: str | Sequence[str] | None) -> tuple[str, str]:
    """Return a line as text, and the first encoding that decodes it."""
    names = [encodings] if isinstance(encodings, str) else encodings or DETECTED
    for name in names:
        try:
            return raw.decode(name).removeprefix("\ufeff"), name
        except UnicodeDecodeError:
            continue
        except LookupError as error:
            raise ConfigError(f"encoding: {error}; use utf-8, cp1252, latin-1, ...") from error
    raise DataError(
        f"standard input, line {number}: cannot be decoded as {' or '.join(names)}; "
        "set the actual encoding, such as encoding=cp1252"
    )
