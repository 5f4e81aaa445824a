"""A fine-tuned model that predicts: from a run, from its final folder, or from a model hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from finetune.batching.data_loader import map_by_length
from finetune.batching.parts import rows_at_once
from finetune.data.records import is_frame
from finetune.distributed.devices import best_device, find_device, to_device
from finetune.distributed.precision import check_precision, computing_in
from finetune.errors import ConfigError, DataError, nearest
from finetune.inference.model_loading import load_task, model_folder
from finetune.model import Batch, TransferModel, saved_model
from finetune.task import Task
from finetune.task_parts import Prediction, Row

# Rows read ahead of a stream, so that rows of similar length can share a batch.
WINDOW = 1024


class Predictor:
    """A task with its fine-tuned model: called with rows, it predicts each of them, in order.

    It stands where a pipeline of transformers does, in `evaluate.evaluator` say.

    Attributes:
        precision: of its computation: fp32, bf16 or fp16.
        cut: how many of the rows predicted so far the model could not read to their end.
    """

    def __init__(
        self, adapter: Task, model: TransferModel, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.adapter = adapter
        self.model = model.to(device).eval()
        self.device = device
        self.precision = precision
        self.cut = 0

    @property
    def task(self) -> str:
        """The name of the pipeline whose predictions these are like."""
        return self.adapter.views.card(self.model).pipeline or self.adapter.name

    def __call__(
        self, rows: Any, batch_size: int = 32, *, truncation: Literal[True] = True
    ) -> list[Any]:
        """Predictions for a list of rows, a datasets.Dataset, a DataFrame, or bare values (texts).

        Bare values fit where a prediction reads one column. A single row gives a list of one. Each
        is of the types that the transformers pipeline gives, those of `stream` are JSON-able.
        `truncation` is what the evaluators of the `evaluate` library tell every pipeline; long rows
        are truncated as in training in any case.
        """
        if truncation is not True:
            raise ConfigError("truncation: rows are truncated as in training; leave it out")
        rows = as_rows(rows, self.adapter)
        return list(map(self.adapter.views.present, self.stream(rows, batch_size)))

    def stream(self, rows: Iterable[Row], batch_size: int = 32) -> Iterator[Prediction]:
        """Predictions in the order of `rows`, read a window at a time.

        Raises DataError for a row that cannot be predicted.
        """
        source = iter(rows)
        start = 1
        while window := list(islice(source, WINDOW)):
            for number, row in enumerate(window, start):
                check_columns(f"row {number}", row, self.adapter)
                for fault in self.adapter.rows.validate(input_columns(row, self.adapter)):
                    raise DataError(f"row {number}: {fault}")
            yield from self.window(window, batch_size)
            start += len(window)

    def window(
        self, rows: Sequence[Row], batch_size: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Predictions for good rows that are in memory; `advance` is told of every batch."""
        rows = [input_columns(row, self.adapter) for row in rows]
        measured = self.adapter.lengths(rows, predicting=True)
        self.cut += sum(length.cut > 0 for length in measured)

        def predict(batch: Batch) -> list[Prediction]:
            return self.adapter.predict(self.model, to_device(batch, self.device))

        at_once = rows_at_once(self.adapter, batch_size)
        with torch.inference_mode(), computing_in(self.precision, self.model, self.device):
            return map_by_length(self.adapter, rows, measured, at_once, predict, advance)


def load(
    reference: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    **keys: Any,
) -> Predictor:
    """The predictor of a run folder, of a `final/` folder, or of a model on the hub.

    `keys` of the task replace those it was trained with: score_threshold=0.5, say. Left out,
    `precision` is fp32; bf16 is faster where the device has it, and rounds. No pickle is read, and
    code that comes with the model runs only if it is trusted. Raises ModelError if there is no such
    model, or if this kit did not make it.
    """
    place = find_device(device) if device else best_device()
    precision = check_precision(precision, place)
    folder = model_folder(reference, revision, token)
    task = load_task(folder, keys, trust_remote_code=trust_remote_code)
    source = saved_model(folder, trust_remote_code=trust_remote_code)
    return Predictor(task, task.load_model(source), place, precision)


def as_rows(value: Any, task: Task) -> Iterable[Row]:
    """Rows from whatever holds them: one row, rows, a table, or bare values of the one column."""
    if is_frame(value):
        return [
            dict(zip(value.columns, map(_as_lists, cells), strict=True))
            for cells in value.itertuples(index=False, name=None)
        ]
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        value = [value]
    return (row if isinstance(row, dict) else task.rows.from_value(row) for row in value)


def _as_lists(cell: Any) -> Any:
    """A cell of a DataFrame, with lists where pandas has made arrays of a table's lists."""
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_as_lists(item) for item in cell]
    if isinstance(cell, dict):
        return {key: _as_lists(item) for key, item in cell.items()}
    return cell


def check_columns(place: str, columns: Collection[str], task: Task) -> None:
    """Raise DataError if a column that a prediction reads is not among those of the rows."""
    for column in task.rows.inputs:
        if column not in columns:
            raise DataError(
                f"{place}: has no column {column!r}, which the model was trained on; "
                f"{nearest(column, columns)}"
            )


def input_columns(row: Row, task: Task) -> Row:
    """The columns that a prediction reads: a label that training never saw must not stop it."""
    columns = task.rows.inputs
    return {name: row.get(name) for name in columns} if columns else row
