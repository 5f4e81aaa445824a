"""Predictor: a fine-tuned model loaded from a run, its final folder, or a model hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from finetune.batching.data_loader import map_by_length
from finetune.batching.parts import rows_at_once
from finetune.config.formats import TABLE_ENDINGS
from finetune.config.schema import DataConfig
from finetune.data.opening import open_rows
from finetune.distributed.devices import best_device, find_device, to_device
from finetune.distributed.precision import check_precision, inference_precision
from finetune.errors import ConfigError, DataError, nearest
from finetune.inference.model_loading import computing, load_final_network, load_task, model_folder
from finetune.io.references import is_pattern
from finetune.model import Batch, TransferModel
from finetune.tables.records import is_frame
from finetune.task import Task
from finetune.task_parts.samples import Lengths, Prediction, Row

# Rows of a stream that are read ahead, so that rows of similar length can share a batch.
WINDOW = 1024
LOADING_KEYS = ("device", "precision", "revision", "token", "trust_code")


class Predictor:
    """A fine-tuned model and its task; call it with rows to get one prediction per row, in order.

    It can replace a transformers pipeline, in `evaluate.evaluator` for example.

    Attributes:
        trained_task: the task of the model; `task` is the name of a pipeline.
        precision: of the computation: fp32, bf16 or fp16.
        cut: number of rows predicted so far that were truncated to the model's maximum length.
        place: where the model was loaded from, for messages.
    """

    def __init__(
        self,
        task: Task,
        model: TransferModel,
        device: torch.device,
        precision: str = "fp32",
        place: str = "the model",
    ) -> None:
        self.trained_task = task
        self.model = model.to(device).eval()
        self.device = device
        self.precision = precision
        self.cut = 0
        self.place = place

    def __repr__(self) -> str:
        task, network = self.trained_task, type(self.model.network).__name__
        inputs = f" of {', '.join(task.rows.inputs)}" if task.rows.inputs else ""
        return f"Predictor({task.name}{inputs}, {network}, {self.device}, {self.precision})"

    @property
    def task(self) -> str:
        """Name of the matching transformers pipeline, or the task's name if there is none."""
        return self.trained_task.views.card(self.model).pipeline or self.trained_task.name

    def __call__(
        self, rows: Any, batch_size: int = 32, *, truncation: Literal[True] = True
    ) -> list[Any]:
        """Predict rows: a list, a Dataset, a DataFrame, a file or folder, or bare values (texts).

        Bare values are accepted if the model reads a single column. A single row gives a list of
        one prediction. Predictions have the types of the transformers pipeline; those of `stream`
        are JSON-able. `truncation` exists because the evaluators of the `evaluate` library pass it
        to every pipeline; long rows are always truncated as in training.
        """
        if truncation is not True:
            raise ConfigError(
                "truncation: rows are always truncated as in training; remove the argument"
            )
        rows = as_rows(rows, self.trained_task)
        return list(map(self.trained_task.views.present, self.stream(rows, batch_size)))

    def stream(self, rows: Iterable[Row], batch_size: int = 32) -> Iterator[Prediction]:
        """Yield predictions in the order of `rows`, which are read one window at a time.

        Raises DataError for a row that cannot be predicted.
        """
        source = iter(rows)
        start = 1
        while window := list(islice(source, WINDOW)):
            for number, row in enumerate(window, start):
                check_columns(f"row {number}", row, self.trained_task)
                inputs = input_columns(row, self.trained_task)
                for fault in self.trained_task.rows.validate(inputs):
                    raise DataError(f"row {number}: {fault}")
            yield from self.window(window, batch_size)
            start += len(window)

    def window(
        self, rows: Sequence[Row], batch_size: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Predict valid rows in memory; `advance` is called with the size of each batch."""
        task = self.trained_task
        rows = [input_columns(row, task) for row in rows]
        lengths = task.lengths(rows, predicting=True)
        self.cut += int((Lengths.of(lengths).cut > 0).sum())

        def predict(batch: Batch) -> list[Prediction]:
            with computing(self.place):
                return task.predict(self.model, to_device(batch, self.device))

        at_once = rows_at_once(task, batch_size)
        # Text that is scored is written token by token, which is faster in full batches.
        pads_little = self.device.type == "cpu" and task.score is None
        with torch.inference_mode(), inference_precision(self.precision, self.model, self.device):
            return map_by_length(
                task, rows, lengths, at_once, predict, advance, pads_little=pads_little
            )


def load(
    reference: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> Predictor:
    """Load a predictor from a run folder, a `final/` folder, or a model on the hub.

    `keys` override task keys that affect predictions, such as score_threshold=0.5. `precision`
    defaults to fp32; bf16 is faster on devices that support it, but less exact. Pickles are never
    loaded. Code that the model names (a task of your own) or that lies in its folder runs only with
    `trust_code`, and a model from a hub never brings code. Raises ModelError if there is no such
    model or this kit did not write it.
    """
    target = find_device(device) if device else best_device()
    precision = check_precision(precision, target)
    folder = model_folder(os.fspath(reference), revision, token)
    options = {key.removeprefix("task."): value for key, value in keys.items()}
    task = load_task(folder, options, trust_code=trust_code, others=LOADING_KEYS)
    network = load_final_network(task, folder, trust_code=trust_code)
    return Predictor(task, network, target, precision, str(folder))


def as_rows(value: Any, task: Task) -> Iterable[Row]:
    """Convert a row, several rows, a table, its file, or bare values of one column to rows."""
    if isinstance(value, str) and _is_reference(value, task):
        value = open_rows(value, DataConfig(), formats=task.config.formats)[0]
    if is_frame(value):
        return [
            dict(zip(value.columns, map(_as_lists, cells), strict=True))
            for cells in value.itertuples(index=False, name=None)
        ]
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        value = [value]
    return (row if isinstance(row, dict) else task.rows.from_value(row) for row in value)


def _is_reference(value: str, task: Task) -> bool:
    """True for the file of a table, and for a folder or a pattern that is not a valid value."""
    if Path(value).suffix in TABLE_ENDINGS and os.path.isfile(value):
        return True
    is_several = os.path.isdir(value) or is_pattern(value)
    return is_several and any(task.rows.validate(task.rows.from_value(value)))


def _as_lists(cell: Any) -> Any:
    """Restore the lists of a DataFrame cell that pandas has turned into object arrays."""
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_as_lists(item) for item in cell]
    if isinstance(cell, dict):
        return {key: _as_lists(item) for key, item in cell.items()}
    return cell


def check_columns(place: str, columns: Collection[str], task: Task) -> None:
    """Raise DataError if a column that the model needs for a prediction is missing."""
    inputs = task.rows.inputs
    if missing := [column for column in inputs if column not in columns]:
        key, value = _column_key(task, inputs)
        remedy = f"name another with {key}={value}"
        if not key:
            remedy = "rename the columns, or make them of others with map=FILE.py:FUNCTION"
        raise DataError(
            f"{place}: has no column {missing[0]!r}, which the model was trained on; "
            f"{nearest(missing[0], columns)}; {remedy}"
        )


def _column_key(task: Task, inputs: Sequence[str]) -> tuple[str, str]:
    """Return the key that names the input columns of a prediction, and how its value is written."""
    for key in sorted(task.resolved_.prediction_keys):
        value = getattr(task.resolved_, key)
        if value == inputs[0] or value == list(inputs):
            names = ["COLUMN" if len(inputs) == 1 else f"COLUMN{n + 1}" for n in range(len(inputs))]
            return f"task.{key}", names[0] if len(names) == 1 else f"[{','.join(names)}]"
    return "", ""


def input_columns(row: Row, task: Task) -> Row:
    """Select the columns that a prediction reads, so that an unseen label cannot make it fail."""
    columns = task.rows.inputs
    return {name: row.get(name) for name in columns} if columns else row
