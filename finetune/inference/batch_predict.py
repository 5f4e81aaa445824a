"""Batch prediction: a table or standard input in, the same rows with predictions out.

Rows are predicted and written one window at a time, by any number of processes. `finetune.data`
opens the table.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.image_files import is_pattern
from finetune.data.opening import open_rows
from finetune.data.source import Source
from finetune.data.validation import check_rows
from finetune.distributed.devices import best_device
from finetune.distributed.launch import this_process
from finetune.distributed.precision import check_precision
from finetune.errors import ConfigError, DataError
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.predictor import WINDOW, Predictor, check_columns
from finetune.io.references import locate
from finetune.io.table_writer import Write, check_output, open_writer, write_lines
from finetune.model import saved_model
from finetune.reporting.console import Console, format_count
from finetune.tables.encodings import DETECTED
from finetune.task import Task
from finetune.task_parts import Prediction, Row

STANDARD_INPUT = "-"
_LONGEST_PATH = 1024


def predict_rows(
    run: str,
    source: Source,
    output: Path | None,
    batch_size: int,
    drawings: Path | None = None,
    precision: str | None = None,
) -> int:
    """Predict all rows of `source`; write them to `output`, or as JSON lines to standard output.

    With `drawings`, images of the predictions are written to that folder, and nothing is written to
    standard output. Returns the number of rows. Raises FinetuneError for rows that cannot be
    predicted, before a network is loaded; rows from standard input are checked as they arrive.
    """
    state = this_process()
    is_main = state.is_main_process
    console = Console(stderr=True, enabled=is_main)  # standard output may carry the predictions
    is_stream = source.reference == STANDARD_INPUT
    if is_stream and state.num_processes > 1:
        raise ConfigError("predict: only a single process can read standard input; name a file")
    if output is not None:
        has_no_file = is_stream or is_pattern(source.reference)
        check_output(output, None if has_no_file else locate(source.reference))
    folder = model_folder(run)
    task = load_task(folder, source.options)
    if is_stream:
        rows: Iterable[Row] = _read_lines(task, source.config, console)
        total, types = 0, {}
    else:
        table, notes = _open_table(source, task)
        console.facts({"data": "\n".join(notes)} if notes else {})
        schema = table.features.arrow_schema
        rows, total, types = table, len(table), dict(zip(schema.names, schema.types, strict=True))
    device = best_device() if state.num_processes == 1 else state.device
    precision = check_precision(precision, device)
    predictor = Predictor(task, task.load_model(saved_model(folder)), device, precision)
    window = 1 if is_stream and sys.stdin.isatty() else WINDOW
    done = 0
    draw = _ImageWriter(task, drawings)
    draws_only = output is None and drawings is not None
    with (
        _open_output(output, types) if is_main and not draws_only else nullcontext() as write,
        console.count(total, "rows") as advance,
    ):
        join = _ColumnJoiner(console)
        for chunk, predictions in _predict_windows(predictor, rows, window, batch_size, advance):
            if is_main:
                draw(chunk, predictions)
            done += len(chunk)
            if write is not None:
                write([join(*pair) for pair in zip(chunk, predictions, strict=True)])
    truncated = sum(gather_object([predictor.cut]))
    if truncated:
        console.print(
            f"{truncated} of {done} rows truncated to the maximum length that the network reads"
        )
    if output is not None:
        console.print(f"{done} rows with predictions written to {output}")
    if drawings is not None:
        console.print(f"{draw.written} images of predictions written to {drawings}")
    return done


class _ImageWriter:
    """Draw predictions to a folder, in files named after the files of their rows.

    Without a folder it draws nothing.
    """

    def __init__(self, task: Task, folder: Path | None) -> None:
        self._task, self._folder = task, folder
        self._names: dict[str, int] = {}
        self._done = self.written = 0
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--draw {folder}: this is a file; name a folder")

    def __call__(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for row, prediction in zip(rows, predictions, strict=True):
                self._done += 1
                name = self._name(row)
                paths = self._task.views.draw(row, prediction, self._folder, name)
                self.written += len(paths)
        except OSError as error:
            raise DataError(f"--draw {self._folder}: cannot be written: {error}") from error

    def _name(self, row: Row) -> str:
        """Return the stem of the row's file, numbered if it repeats, or else the row's number."""
        file = next((row[key] for key in ("file", *row) if _is_path(row.get(key))), None)
        stem = Path(file).stem if file else f"row-{self._done:05}"
        self._names[stem] = seen = self._names.get(stem, 0) + 1
        return stem if seen == 1 else f"{stem}-{seen}"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(Path(value).suffix) and len(value) < _LONGEST_PATH


def _predict_windows(
    predictor: Predictor,
    rows: Iterable[Row],
    window: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[list[Row], list[Prediction]]]:
    """Yield windows of rows, in order, with their predictions.

    Process k mod P computes window k, so the batches do not depend on the number of processes P,
    and no process holds more than P windows.
    """
    state = PartialState()
    rank, processes = state.process_index, state.num_processes
    windows = _split_into_windows(rows, window)
    while group := list(islice(windows, processes)):
        mine = predictor.window(group[rank], batch_size, advance) if rank < len(group) else []
        gathered: list[list[Prediction]] = [mine]
        if processes > 1:
            gathered = gather_object(gathered)
        yield from zip(group, gathered[: len(group)], strict=True)


class _ColumnJoiner:
    """Add predictions to rows as columns; they get a prefix if a row already has such a column."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._prefix: str | None = None

    def __call__(self, row: Row, prediction: Prediction) -> Row:
        if self._prefix is None:
            self._prefix = self._choose_prefix(row, prediction)
        return row | {f"{self._prefix}{name}": value for name, value in prediction.items()}

    def _choose_prefix(self, row: Row, prediction: Prediction) -> str:
        prefix = ""
        while taken := [prefix + name for name in prediction if prefix + name in row]:
            prefix += "predicted_"
            names = ", ".join(prefix + name for name in prediction)
            self._console.print(
                f"the rows already have a column {taken[0]!r}: predictions are in {names}"
            )
        return prefix


def _open_table(source: Source, task: Task) -> tuple[Dataset, list[str]]:
    """Open the rows that can be predicted, with all of their columns, and notes about them."""
    table, notes = open_rows(source.reference, source.config, source.split, task.config.formats)
    check_columns(source.reference, table.column_names, task)
    columns, on_error = task.rows.inputs, source.config.on_error
    table, faults = check_rows(
        source.reference, table, task.rows.validate_many, on_error, columns=columns
    )
    return table, [*notes, *faults]


def _read_lines(task: Task, config: DataConfig, console: Console) -> Iterator[Row]:
    """Yield the lines of standard input as rows. Raises DataError for an invalid line."""
    if sys.stdin.isatty():
        console.print("enter one text per line; Ctrl-D ends the input")
    skipped, encodings = 0, Counter[str]()
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        text, encoding = _decode(raw, number, config.encoding)
        encodings[encoding] += 1
        row = task.rows.from_value(text.rstrip("\r\n"))
        faults = list(task.rows.validate(row))
        if not faults:
            yield row
        elif config.on_error == "skip":
            skipped += 1
        else:
            raise DataError(
                f"standard input, line {number}: {'; '.join(faults)}; "
                "fix the line, or skip such lines with on_error=skip"
            )
    if skipped:
        console.print(f"standard input: {format_count(skipped, 'line')} skipped")
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


def _split_into_windows(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    source = iter(rows)
    while window := list(islice(source, size)):
        yield window


@contextmanager
def _open_output(output: Path | None, types: dict[str, pa.DataType]) -> Iterator[Write]:
    if output is None:
        yield lambda rows: write_lines(sys.stdout, rows)
    else:
        with open_writer(output, types) as write:
            yield write
