"""Predictions for many rows: a table or the standard input in, the same rows with predictions out.

Rows are predicted and written a window at a time, by any number of processes; the table itself is
opened by `finetune.data`.
"""

from __future__ import annotations

import sys
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
    """Predict all rows of `source` into `output`, or as JSON lines to the standard output.

    With `drawings` pictures of the predictions are written into that folder, and nothing to the
    standard output. Returns their number. Raises FinetuneError, before a network is loaded, for
    rows that cannot be predicted; the standard input is read as it comes.
    """
    state = this_process()
    speaks = state.is_main_process
    console = Console(stderr=True, speaks=speaks)  # the standard output may be what is asked for
    is_stream = source.reference == STANDARD_INPUT
    if is_stream and state.num_processes > 1:
        raise ConfigError("predict: the standard input is read by one process; name a file")
    if output is not None:
        names_no_file = is_stream or is_pattern(source.reference)
        check_output(output, None if names_no_file else locate(source.reference))
    folder = model_folder(run)
    task = load_task(folder, source.options)
    if is_stream:
        rows: Iterable[Row] = _lines(task, source.config, console)
        total, types = 0, {}
    else:
        table, notes = _open(source, task)
        console.facts({"data": "\n".join(notes)} if notes else {})
        schema = table.features.arrow_schema
        rows, total, types = table, len(table), dict(zip(schema.names, schema.types, strict=True))
    device = best_device() if state.num_processes == 1 else state.device
    precision = check_precision(precision, device)
    predictor = Predictor(task, task.load_model(saved_model(folder)), device, precision)
    window = 1 if is_stream and sys.stdin.isatty() else WINDOW
    done = 0
    draw = _Drawing(task, drawings)
    silent = output is None and drawings is not None
    with (
        _writer(output, types) if speaks and not silent else nullcontext() as write,
        console.count(total, "rows") as advance,
    ):
        join = _Join(console)
        for part, predictions in _predicted(predictor, rows, window, batch_size, advance):
            if speaks:
                draw(part, predictions)
            done += len(part)
            if write is not None:
                write([join(row, said) for row, said in zip(part, predictions, strict=True)])
    cut = sum(gather_object([predictor.cut]))
    if cut:
        console.print(f"{cut} of {done} rows are longer than the model reads: they were cut")
    if output is not None:
        console.print(f"{done} rows with predictions: {output}")
    if drawings is not None:
        console.print(f"{draw.written} pictures of predictions: {drawings}")
    return done


class _Drawing:
    """Pictures of predictions in a folder, named after the files of their rows; no folder: none."""

    def __init__(self, task: Task, folder: Path | None) -> None:
        self._task, self._folder = task, folder
        self._names: dict[str, int] = {}
        self._done = self.written = 0
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--draw {folder}: is a file; name a folder")

    def __call__(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for row, said in zip(rows, predictions, strict=True):
                self._done += 1
                self.written += len(self._task.views.draw(row, said, self._folder, self._name(row)))
        except OSError as error:
            raise DataError(f"--draw {self._folder}: cannot be written: {error}") from error

    def _name(self, row: Row) -> str:
        """The stem of the row's file, a number where it has none or where another has the same."""
        file = next((row[key] for key in ("file", *row) if _is_path(row.get(key))), None)
        stem = Path(file).stem if file else f"row-{self._done:05}"
        self._names[stem] = seen = self._names.get(stem, 0) + 1
        return stem if seen == 1 else f"{stem}-{seen}"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(Path(value).suffix) and len(value) < _LONGEST_PATH


def _predicted(
    predictor: Predictor,
    rows: Iterable[Row],
    window: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[list[Row], list[Prediction]]]:
    """Windows of rows in their order, with their predictions.

    Window k is computed by process k mod P, so what is computed together does not depend on their
    number, and no process holds more than P windows.
    """
    state = PartialState()
    rank, processes = state.process_index, state.num_processes
    windows = _windows(rows, window)
    while own := list(islice(windows, processes)):
        mine = predictor.window(own[rank], batch_size, advance) if rank < len(own) else []
        told: list[list[Prediction]] = [mine]
        if processes > 1:
            told = gather_object(told)
        yield from zip(own, told[: len(own)], strict=True)


class _Join:
    """Rows with their predictions: columns of the input keep their names."""

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
            self._console.print(f"the rows have a column {taken[0]!r}: predictions are in {names}")
        return prefix


def _open(source: Source, task: Task) -> tuple[Dataset, list[str]]:
    """The rows that can be predicted, all of their columns kept."""
    table, notes = open_rows(source.reference, source.config, source.split, task.config.formats)
    check_columns(source.reference, table.column_names, task)
    columns, on_error = task.rows.inputs, source.config.on_error
    table, faults = check_rows(
        source.reference, table, task.rows.validate_many, on_error, columns=columns
    )
    return table, [*notes, *faults]


def _lines(task: Task, config: DataConfig, console: Console) -> Iterator[Row]:
    """The lines of the standard input as rows. Raises DataError for one that is no good."""
    if sys.stdin.isatty():
        console.print("one text a line; Ctrl-D ends")
    left_out = 0
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        row = task.rows.from_value(_decode(raw, number, config.encoding).rstrip("\r\n"))
        whats = list(task.rows.validate(row))
        if not whats:
            yield row
        elif config.on_error == "skip":
            left_out += 1
        else:
            raise DataError(
                f"standard input, line {number}: {'; '.join(whats)}; "
                "mend the line, or leave such lines out with on_error=skip"
            )
    if left_out:
        console.print(f"standard input: {format_count(left_out, 'line')} left out")


def _decode(raw: bytes, number: int, encodings: str | Sequence[str]) -> str:
    names = [encodings] if isinstance(encodings, str) else encodings
    for name in names:
        try:
            return raw.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        except LookupError as error:
            raise ConfigError(f"encoding: {error}; write utf-8, cp1252, latin-1 ...") from error
    raise DataError(
        f"standard input, line {number}: is not {' nor '.join(names)}; write encoding=cp1252, or "
        "whatever it is"
    )


def _windows(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    source = iter(rows)
    while window := list(islice(source, size)):
        yield window


@contextmanager
def _writer(output: Path | None, types: dict[str, pa.DataType]) -> Iterator[Write]:
    if output is None:
        yield lambda rows: write_lines(sys.stdout, rows)
    else:
        with open_writer(output, types) as write:
            yield write
