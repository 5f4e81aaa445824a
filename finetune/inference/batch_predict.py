"""Batch prediction: a table or standard input in, the same rows with predictions out.

Rows are predicted and written one window at a time, by any number of processes. A row that cannot
be predicted keeps its place, with the reason instead of a prediction.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from finetune.data.source import STANDARD_INPUT, Source, find_data
from finetune.distributed.devices import best_device
from finetune.distributed.launch import this_process
from finetune.distributed.precision import check_precision
from finetune.errors import ConfigError, format_count
from finetune.inference.model_loading import load_final_network, load_task, model_folder
from finetune.inference.prediction_inputs import NumberedRow, open_inputs
from finetune.inference.prediction_outputs import (
    ERROR,
    Destination,
    Drawings,
    Result,
    Sink,
    check_destination,
    check_drawings,
    find_form,
    open_sinks,
)
from finetune.inference.predictor import WINDOW, Predictor, input_columns
from finetune.reporting.console import Console
from finetune.tables.faults import Faults
from finetune.task import Task


def predict_rows(
    run: str,
    source: Source,
    destination: Destination,
    batch_size: int,
    precision: str | None = None,
    *,
    trust_code: bool = False,
) -> list[Path]:
    """Predict all rows of `source`; write them to `destination`, a window at a time.

    Returns the paths of the drawings, if the destination has any. Rows that cannot be predicted are
    written with the reason; with data.on_error=skip they are left out, and an explicit
    data.on_error=stop raises FinetuneError before a network is loaded.
    """
    state = this_process()
    is_main = state.is_main_process
    console = Console(stderr=True, enabled=is_main)  # standard output may carry the predictions
    is_stream = source.reference == STANDARD_INPUT
    if is_stream and state.num_processes > 1:
        raise ConfigError("predict: only a single process can read standard input; name a file")
    check_destination(destination, find_data(source.reference))
    folder = model_folder(run)
    task = load_task(folder, source.options, trust_code=trust_code)
    find_form(destination, task)
    check_drawings(destination, task)
    with console.during("reading the rows") if not is_stream else nullcontext():
        inputs = open_inputs(source, task, console)
    console.facts({"data": "\n".join(inputs.notes)} if inputs.notes else {})
    device = best_device() if state.num_processes == 1 else state.device
    precision = check_precision(precision, device)
    network = load_final_network(task, folder, trust_code=trust_code)
    predictor = Predictor(task, network, device, precision, str(folder))
    window = 1 if is_stream and sys.stdin.isatty() else WINDOW
    name = "standard input" if is_stream else source.name
    tally = Tally(task, name, skips=source.config.on_error == "skip")
    with (
        open_sinks(destination, task, inputs.types, console.print)
        if is_main
        else nullcontext(list[Sink]()) as sinks,
        console.count(inputs.total, "rows") as advance,
    ):
        for pairs in _predict_windows(predictor, inputs.rows, window, batch_size, advance):
            kept = tally.count(pairs)
            for sink in sinks:
                sink(*kept)
        notes = tally.notes()  # raises if every row is skipped: no file appears
        notes += filter(None, [sink.finish() for sink in sinks])
    truncated = sum(gather_object([predictor.cut]))
    if truncated:
        notes.append(
            f"{truncated} of {tally.rows} rows truncated to the maximum length of the model"
        )
    if destination.path is not None:
        notes.append(tally.describe_written(destination))
    for note in notes:
        console.print(note)
    return [path for sink in sinks if isinstance(sink, Drawings) for path in sink.paths]


class Tally:
    """Counts of the rows, of those without a prediction, and of the caveats of predictions."""

    def __init__(self, task: Task, name: str, *, skips: bool) -> None:
        self._task, self._skips = task, skips
        self.faults = Faults(name)
        self.caveats = Counter[str]()
        self.rows = self.written = self.predicted = 0

    def describe_written(self, destination: Destination) -> str:
        """Return a sentence on the rows that were written to a file or folder."""
        form = f" as {destination.form}" if destination.form else ""
        some = f", {self.predicted} with a prediction" if self.predicted < self.written else ""
        return f"{format_count(self.written, 'row')}{form} written to {destination.path}{some}"

    def count(
        self, pairs: Sequence[tuple[NumberedRow, Result]]
    ) -> tuple[list[NumberedRow], list[Result]]:
        """Count the results of a window; return the rows to write, with their results."""
        kept = []
        for pair in pairs:
            numbered, result = pair
            if isinstance(result, str):
                self.faults.add(f"row {numbered.number}", result)
            elif caveat := self._task.views.caveat(result):
                self.caveats[caveat] += 1
            if not (self._skips and isinstance(result, str)):
                kept.append(pair)
        self.rows += len(pairs)
        self.predicted += sum(not isinstance(result, str) for _, result in pairs)
        self.written += len(kept)
        return [numbered for numbered, _ in kept], [result for _, result in kept]

    def notes(self) -> list[str]:
        """Return notes on the rows without a prediction and the caveats.

        Raises DataError if all rows are skipped.
        """
        faults = self.faults
        notes = [f"{count} of {self.rows} rows: {text}" for text, count in self.caveats.items()]
        if self._skips:
            return [*faults.settle("skip", self.rows), *notes]
        if faults.rows:
            count = f"{faults.subject}: {len(faults.rows)} of {self.rows} rows"
            notes.append(
                f"{count} without a prediction, for the reason in column {ERROR}: {faults.kinds()}"
            )
        return notes


def _predict_windows(
    predictor: Predictor,
    rows: Iterable[NumberedRow],
    window: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[list[tuple[NumberedRow, Result]]]:
    """Yield windows of rows, in order, with their results.

    Process k mod P computes window k, so the batches do not depend on the number of processes P,
    and no process holds more than P windows.
    """
    state = PartialState()
    rank, processes = state.process_index, state.num_processes
    windows = split_into_windows(rows, window)
    while group := list(islice(windows, processes)):
        has_work = rank < len(group)
        mine = predict_valid(predictor, group[rank], batch_size, advance) if has_work else []
        gathered: list[list[Result]] = [mine]
        if processes > 1:
            gathered = gather_object(gathered)
        for some, results in zip(group, gathered[: len(group)], strict=True):
            yield list(zip(some, results, strict=True))


def predict_valid(
    predictor: Predictor,
    window: Sequence[NumberedRow],
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Predict the valid rows of a window; return the faults of the others in their places."""
    task = predictor.trained_task
    inputs = [input_columns(each.row, task) for each in window]
    faults = [
        [each.reason] if each.reason else messages
        for each, messages in zip(window, task.rows.validate_many(inputs), strict=True)
    ]
    valid = [row for row, messages in zip(inputs, faults, strict=True) if not messages]
    predictions = iter(predictor.window(valid, batch_size, advance) if valid else ())
    advance(len(window) - len(valid))
    return ["; ".join(messages) if messages else next(predictions) for messages in faults]


def split_into_windows(
    rows: Iterable[NumberedRow], size: int = WINDOW
) -> Iterator[list[NumberedRow]]:
    """Yield the rows in lists of `size`, the last one shorter."""
    source = iter(rows)
    while window := list(islice(source, size)):
        yield window
