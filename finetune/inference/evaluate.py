"""Evaluation of a fine-tuned model on labeled rows: metrics, and the statistics they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from finetune.batching.data_loader import Split, measure_split
from finetune.batching.parts import split_into_parts
from finetune.config.schema import TrainConfig
from finetune.data.opening import FIRST_VALUES, for_task, open_numbered_rows
from finetune.data.source import Source
from finetune.data.validation import find_valid
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision, has_native_bf16
from finetune.errors import DataError, format_count, nearest
from finetune.inference.evaluation_loop import Evaluation, evaluate_split
from finetune.inference.model_loading import computing, load_final_network, load_task, model_folder
from finetune.inference.split_reports import write_split_reports
from finetune.inference.stored_code import check_stored_code
from finetune.io.run_folder import RunFolder
from finetune.model import TransferModel
from finetune.reporting.console import Console
from finetune.reporting.run_facts import cut_note
from finetune.task import Task, make_summarizer
from finetune.task_parts.rows import Resolved
from finetune.task_parts.samples import Row, take_rows

MOST_GROUPS = 200
"""Number of values of a column up to which the metrics are split by it."""


@dataclass(frozen=True)
class Measured:
    """A model evaluated on the rows of a source.

    Attributes:
        rows: the valid rows, with all of their columns.
        numbers: number in the source of each row of `split`, from 1.
    """

    model: TransferModel
    task: Task
    rows: Dataset
    split: Split
    numbers: Sequence[int]
    evaluation: Evaluation

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of all rows."""
        return self.evaluation.metrics

    def metrics_by(self, column: str) -> dict[str, dict[str, float]]:
        """Return the number of rows and the metrics of those with each value of a column.

        The loss is not among them.
        """
        groups: dict[str, list[int]] = {}
        for index, cell in enumerate(self.cells(column)):
            groups.setdefault(cell, []).append(index)
        return {
            name: {"rows": len(groups[name]), **self.metrics_of(groups[name])}
            for name in sorted(groups)
        }

    def values(self, column: str) -> list[Any]:
        """Return the cell of a column for each row of the split."""
        cells, positions = list(self.rows[column]), self.split.positions
        return cells if positions is None else [cells[position] for position in positions]

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column as text."""
        return list(map(str, self.values(column)))

    def metrics_of(self, indices: Sequence[int]) -> dict[str, float]:
        """Return the metrics of the rows at these positions of the split, without the loss."""
        chosen, evaluation = list(indices), self.evaluation
        metrics = self._summarize(chosen)
        if (score := self.task.score) is not None:
            predictions = [evaluation.predictions[index] for index in chosen]
            metrics |= score(predictions, take_rows(self.split.rows, chosen))
        # Some metrics are undefined for few rows, such as the AP of images without objects.
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    @cached_property
    def _summarize(self) -> Callable[[Sequence[int]], dict[str, float]]:
        return make_summarizer(self.task, self.evaluation.stats)

    def write_reports(self, folder: Path) -> list[Path]:
        """Write the reports that training writes for a split; return their paths."""
        return write_split_reports(
            self.model, self.task, self.split, self.evaluation, folder, self.numbers
        )


def evaluate_source(
    run: str,
    source: Source,
    console: Console,
    batch_size: int,
    by: str | None = None,
    *,
    trust_code: bool = False,
) -> Measured:
    """Evaluate a model on `source`.

    Prints how the rows were read. The metrics do not depend on the number of processes. Raises
    FinetuneError, also if the metrics cannot be split by the values of the column `by`.
    """
    state = this_process()
    folder = model_folder(run)
    task = load_task(folder, source.options, trust_code=trust_code)
    if "metrics" not in source.options:  # not what the user typed
        _check_metric_code(task, folder, trust_code=trust_code)
    with console.during("reading the rows"):
        config = for_task(source.config, task)
        rows, notes, numbers = open_numbered_rows(
            source.reference, config, source.split, task.config.formats
        )
    if by is not None:
        _check_groups(by, rows)
    task.views.metric_names()  # loads the metrics of the task, and raises if one fails
    resolved = _resolve(task, rows)
    task.settle(resolved.keys)
    notes += resolved.notes
    on_error = source.config.on_error
    with console.during("checking the rows"):
        valid, faults = find_valid(source.name, rows, labeled_faults(task), on_error, numbers)
    if len(valid) < len(rows):
        rows, numbers = rows.select(valid), [numbers[index] for index in valid]
    notes += task.views.compare(source.split or source.name, rows)
    precision, reason = _choose_precision(RunFolder(Path(run)), state.device)
    accelerator = make_accelerator(precision)
    processes = format_count(accelerator.num_processes, "process", "es")
    hardware = f"{accelerator.device.type}, {processes}, {precision}: {reason}"
    facts = {"model": str(folder), "data": "\n".join([*notes, *faults]), "device": hardware}
    console.facts({name: text for name, text in facts.items() if text})

    model = load_final_network(task, folder, trust_code=trust_code).to(accelerator.device)
    name, part_notes, measured = source.split or source.name, list[str](), rows
    if task.measures_parts:
        measured, part_notes = split_into_parts(rows, task, name)
    split, lengths, skipped_notes = measure_split(name, measured, task)
    cut = cut_note(lengths, task.views.length_unit)
    for note in filter(None, [*part_notes, *skipped_notes, cut]):
        console.print(note)
    with console.during(f"evaluating on {format_count(len(split), 'row')}"), computing(str(folder)):
        evaluation = evaluate_split(model, task, split, accelerator, block=batch_size)
    if remark := task.views.remark(evaluation.stats, evaluation.metrics, {}):
        console.print(remark)
    if note := evaluation.undefined_note(name):
        console.print(note)
    return Measured(model, task, rows, split, split.numbers(numbers), evaluation)


def _resolve(task: Task, rows: Dataset) -> Resolved:
    try:
        return task.rows.resolve(rows[:FIRST_VALUES])
    except DataError as error:
        if set(task.rows.targets) <= set(rows.column_names):
            raise
        raise DataError(
            f"{error}; an evaluation needs labeled rows, `finetune predict` does not"
        ) from error


def _check_metric_code(task: Task, folder: Path, *, trust_code: bool) -> None:
    """Raise ConfigError for metrics of a stored config that are code, such as `evaluate` modules.

    Only an evaluation runs them, so they do not hinder a prediction.
    """
    for name in task.config.metric_code:
        check_stored_code("task.metrics", name, folder / "task.json", trust_code=trust_code)


def _check_groups(column: str, rows: Dataset) -> None:
    if column not in rows.column_names:
        raise DataError(f"by={column}: no such column; {nearest(column, rows.column_names)}")
    count = len(set(map(str, rows[column])))
    if count > MOST_GROUPS:
        raise DataError(
            f"by={column}: has {count} values, more than {MOST_GROUPS}; name a column with few "
            "values, such as the source of a row"
        )


def labeled_faults(task: Task) -> Callable[[Sequence[Row]], list[list[str]]]:
    """Return a function that lists the faults of rows to evaluate a trained task on."""

    def check(rows: Sequence[Row]) -> list[list[str]]:
        faults_by_row = task.rows.validate_many(rows)
        return [
            faults or list(task.unseen(row))
            for faults, row in zip(faults_by_row, rows, strict=True)
        ]

    return check


def _choose_precision(run: RunFolder, device: torch.device) -> tuple[str, str]:
    """Return the run's precision if this device supports it, else training's default, and why."""
    if not run.has_config:
        return choose_precision(None, device)
    precision = run.read_section("train", TrainConfig).precision
    if precision is not None and (
        precision == "fp32"
        or device.type == "cuda"
        or (precision == "bf16" and has_native_bf16(device))
    ):
        return precision, "as in training"
    return choose_precision(None, device)
