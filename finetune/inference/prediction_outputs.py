"""Destinations of predictions: a table, files in a form that other tools read, and drawings.

Every writer here is called with a window of rows and their results, in the order of the input.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune.config.formats import WRITTEN_TABLES
from finetune.errors import ConfigError, DataError, format_count, nearest
from finetune.io.table_writer import Write, check_output, open_writer, quote_formulas, write_lines
from finetune.task_parts.samples import Prediction, Row
from finetune.task_parts.views import PredictionForm, Views

if TYPE_CHECKING:
    from finetune.inference.prediction_inputs import NumberedRow
    from finetune.task import Task

ROW, ERROR = "row", "error"
PREDICTED = "predicted_"
"""Prefix of the columns of predictions."""
INPUT = "input_"
"""Prefix of an input column that has the name of an output column."""
_LONGEST_PATH = 1024

Result = Prediction | str
"""A prediction, or the reason why a row has none."""


class Sink(ABC):
    """Writer of the results of windows of rows."""

    @abstractmethod
    def __call__(self, rows: Sequence[NumberedRow], results: Sequence[Result]) -> None:
        """Write the results of a window."""

    def finish(self) -> str:
        """Write what is held back; return one line on what was written."""
        return ""


@dataclass(frozen=True)
class Destination:
    """Destination of predictions.

    Attributes:
        path: a table, or what the form writes; None: JSON lines to standard output.
        drawings: a folder for images of the predictions; None: none are drawn.
        form: name of the task's form of predictions to write; None: rows with predictions.
        safe_csv: True to quote cells of a CSV or TSV file that a spreadsheet would compute.
    """

    path: Path | None = None
    drawings: Path | None = None
    form: str | None = None
    safe_csv: bool = False

    @property
    def draws_only(self) -> bool:
        """True if nothing but images is written."""
        return self.path is None and self.drawings is not None


def find_form(destination: Destination, task: Task) -> PredictionForm | None:
    """Return the form to write, None for rows. Raises ConfigError if the task does not have it."""
    name, path = destination.form, destination.path
    if name is None:
        return None
    forms = task.views.forms
    if not forms:
        raise ConfigError(f"--as {name}: {task.name} has no such forms; remove the option")
    if name not in forms:
        raise ConfigError(f"--as {name}: unknown form; {nearest(name, forms)}")
    form = forms[name]
    if form.endings and path is not None and path.suffix.lower() not in form.endings:
        endings = ", ".join(form.endings)
        raise ConfigError(f"-o {path}: --as {name} is written to a file with ending {endings}")
    if not form.endings and (path is None or path.suffix.lower() in WRITTEN_TABLES):
        raise ConfigError(f"--as {name}: writes a text file for each row; name a folder with -o")
    return form


def check_destination(destination: Destination, source: Path | None) -> None:
    """Raise ConfigError if nothing can be written to the destination."""
    path, drawings = destination.path, destination.drawings
    if destination.safe_csv and (path is None or path.suffix.lower() not in (".csv", ".tsv")):
        raise ConfigError("--safe-csv: only CSV files need it; name a .csv or .tsv file with -o")
    if path is not None and (destination.form is None or path.suffix):
        check_output(path, source)
    for option, folder in (("--draw", drawings), ("-o", None if path and path.suffix else path)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"{option} {folder}: this is a file; name a folder")


def check_drawings(destination: Destination, task: Task) -> None:
    """Raise ConfigError if the task cannot draw its predictions, which the destination asks for."""
    if destination.drawings is not None and type(task.views).draw is Views.draw:
        raise ConfigError(
            f"--draw {destination.drawings}: {task.name} does not draw predictions; write them to "
            "a table instead"
        )


@contextmanager
def open_sinks(
    destination: Destination,
    task: Task,
    types: Mapping[str, pa.DataType],
    note: Callable[[str], None],
) -> Iterator[list[Sink]]:
    """Yield the writers of a destination; files appear at the end, complete."""
    form, sinks = find_form(destination, task), list[Sink]()
    with ExitStack() as stack:
        if destination.drawings is not None:
            sinks.append(Drawings(task, destination.drawings))
        if form is not None and not form.endings and destination.path is not None:
            sinks.append(_FormFolder(form, destination.path))
        elif form is not None:
            write = stack.enter_context(_open_table(destination, {}, form.columns))
            sinks.append(_FormTable(form, write))
        elif not destination.draws_only:
            write = stack.enter_context(_open_table(destination, output_types(types)))
            sinks.append(PredictionTable(write, note))
        yield sinks


@contextmanager
def _open_table(
    destination: Destination, types: Mapping[str, pa.DataType], columns: Sequence[str] = ()
) -> Iterator[Write]:
    if destination.path is None:
        yield lambda rows: write_lines(sys.stdout, rows)
    else:
        with open_writer(destination.path, types, columns) as write:
            yield quote_formulas(write) if destination.safe_csv else write


def output_types(types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return the types of the output columns that are known before the first prediction."""
    kept = {name: each for name, each in types.items() if not name.startswith(PREDICTED)}
    renamed = {INPUT + name: each for name, each in types.items()}
    return {**renamed, **kept, ROW: pa.int64(), ERROR: pa.string()}


class PredictionTable(Sink):
    """Write rows as a table: row, the columns of the input, predicted_..., error.

    The names of the predicted columns do not depend on the input: an input column of the same name
    is renamed to input_... The first rows are held back until a prediction gives these names, if
    they are not given.

    Attributes:
        names: keys of a prediction; None until one is known.
    """

    def __init__(
        self, write: Write, note: Callable[[str], None], names: list[str] | None = None
    ) -> None:
        self._write, self._note = write, note
        self.names: list[str] | None = None
        self._given = names
        self._renamed: dict[str, str] = {}
        self._held: list[tuple[NumberedRow, Result]] = []

    def __call__(self, rows: Sequence[NumberedRow], results: Sequence[Result]) -> None:
        pairs = list(zip(rows, results, strict=True))
        if self.names is None:
            self._held += pairs
            first = next((each for each in results if not isinstance(each, str)), self._given)
            if first is None or not self._held:
                return
            self._start(list(first))
            pairs, self._held = self._held, []
        self._write([self._output_row(*pair) for pair in pairs])

    def finish(self) -> str:
        if self.names is None and self._held:
            self._start([])
            self._write([self._output_row(*pair) for pair in self._held])
        return ""

    def _start(self, names: list[str]) -> None:
        self.names = names
        columns = list(self._held[0][0].row)
        taken = {ROW, ERROR, *(PREDICTED + name for name in names)}
        for name in columns:
            if name in taken:
                renamed = INPUT + name
                while renamed in (taken | {*columns, *self._renamed.values()}):
                    renamed = INPUT + renamed
                self._renamed[name] = renamed
        if self._renamed:
            items = ", ".join(f"{name} as {other}" for name, other in self._renamed.items())
            self._note(f"columns of the input that have the name of an output column: {items}")

    def _output_row(self, numbered: NumberedRow, result: Result) -> Row:
        inputs = {self._renamed.get(name, name): value for name, value in numbered.row.items()}
        is_fault = isinstance(result, str)
        prediction: Mapping[str, Any] = {} if isinstance(result, str) else result
        predicted = {PREDICTED + name: prediction.get(name) for name in self.names or ()}
        return {
            ROW: int(numbered.number),
            **inputs,
            **predicted,
            ERROR: result if is_fault else None,
        }


class RowNames:
    """Names for the files of rows: the stem of a row's own file, numbered if it repeats."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __call__(self, numbered: NumberedRow) -> str:
        file = file_of(numbered.row)
        stem = Path(file).stem if file else f"row-{numbered.number:05}"
        self._seen[stem] = seen = self._seen.get(stem, 0) + 1
        return stem if seen == 1 else f"{stem}-{seen}"


def file_of(row: Row) -> str | None:
    """Return the file that a row is about, None if it names none."""
    return next((row[key] for key in ("file", *row) if _is_path(row.get(key))), None)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(Path(value).suffix) and len(value) < _LONGEST_PATH


def _records(form: PredictionForm, numbered: NumberedRow, result: Result) -> list[Row]:
    if isinstance(result, str):
        return []
    name = file_of(numbered.row) or f"row-{numbered.number:05}"
    return form.records(numbered.row, name, result)


class _FormTable(Sink):
    """Write the records of a form to a table."""

    def __init__(self, form: PredictionForm, write: Write) -> None:
        self._form, self._write = form, write

    def __call__(self, rows: Sequence[NumberedRow], results: Sequence[Result]) -> None:
        pairs = zip(rows, results, strict=True)
        records = [record for pair in pairs for record in _records(self._form, *pair)]
        if records:
            self._write(records)


class _FormFolder(Sink):
    """Write a text file for each row, with a line for each of its records."""

    def __init__(self, form: PredictionForm, folder: Path) -> None:
        self._form, self._folder, self._names = form, folder, RowNames()

    def __call__(self, rows: Sequence[NumberedRow], results: Sequence[Result]) -> None:
        with _naming("-o", self._folder):
            for name, text in self._form.files.items():
                (self._folder / name).write_text(text, encoding="utf-8")
            for numbered, result in zip(rows, results, strict=True):
                file = self._folder / f"{self._names(numbered)}.txt"
                records = _records(self._form, numbered, result)
                lines = (" ".join(map(str, record.values())) + "\n" for record in records)
                if not isinstance(result, str):
                    file.write_text("".join(lines), encoding="utf-8")


class Drawings(Sink):
    """Draw predictions to a folder, in files named after the files of their rows."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder, self._names = task, folder, RowNames()
        self.paths: list[Path] = []

    def __call__(self, rows: Sequence[NumberedRow], results: Sequence[Result]) -> None:
        with _naming("--draw", self._folder):
            for numbered, result in zip(rows, results, strict=True):
                name = self._names(numbered)
                if not isinstance(result, str):
                    self.paths += self._task.views.draw(numbered.row, result, self._folder, name)

    def finish(self) -> str:
        return f"{format_count(len(self.paths), 'image')} of predictions written to {self._folder}"


@contextmanager
def _naming(option: str, folder: Path) -> Iterator[None]:
    """Create the folder; convert an OSError to a DataError that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(f"{option} {folder}: cannot be written: {error}") from error
