"""Evaluation of a fine-tuned model on labeled rows.

metrics = finetune.evaluate("runs/news-bert-lora", "test.csv", delimiter=";")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.batching.data_loader import Split, measure_split
from finetune.batching.parts import split_into_parts
from finetune.data.opening import FIRST_VALUES, open_rows
from finetune.data.source import Source, make_source
from finetune.data.validation import check_rows
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision, has_native_bf16
from finetune.inference.evaluation_loop import evaluate_split
from finetune.inference.model_loading import load_task, model_folder
from finetune.io.run_folder import RunFolder
from finetune.model import saved_model
from finetune.reporting.console import Console, format_count
from finetune.reporting.run_facts import cut_note
from finetune.task import Task
from finetune.task_parts import Row


def evaluate(
    model: str | Path, data: Any, *, batch_size: int = 32, **keys: Any
) -> dict[str, float]:
    """Evaluate a fine-tuned model on labeled rows; return {metric: value}.

    `model` is a run folder, its `final/`, or a model on the hub. `data` is anything that
    `finetune.train` takes: a reference, a Dataset, a DataFrame, a list of dicts. `keys` set how it
    is read (split="test", delimiter=";"), or override task keys that affect predictions only
    (score_threshold=0.5). Raises FinetuneError.
    """
    source = make_source(data, keys, "call", takes_options=True)
    _, metrics = evaluate_source(str(model), source, Console(), batch_size)
    return metrics


def evaluate_source(
    run: str, source: Source, console: Console, batch_size: int
) -> tuple[Split, dict[str, float]]:
    """Evaluate a model on `source`; return the evaluated rows and their metrics.

    Prints how the rows were read. The metrics do not depend on the number of processes. Raises
    FinetuneError.
    """
    state = this_process()
    folder = model_folder(run)
    task = load_task(folder, source.options)
    rows, notes = open_rows(source.reference, source.config, source.split, task.config.formats)
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    notes += resolved.notes
    rows, faults = check_rows(source.name, rows, labeled_faults(task), source.config.on_error)
    notes += task.views.compare(source.split or source.name, rows)
    precision, reason = _choose_precision(RunFolder(Path(run)), state.device)
    accelerator = make_accelerator(precision)
    processes = format_count(accelerator.num_processes, "process", "es")
    hardware = f"{accelerator.device.type}, {processes}, {precision}: {reason}"
    facts = {"model": str(folder), "data": "\n".join([*notes, *faults]), "device": hardware}
    console.facts({name: text for name, text in facts.items() if text})

    model = task.load_model(saved_model(folder)).to(accelerator.device)
    name, part_notes, measured = source.split or source.name, list[str](), rows
    if task.measures_parts:
        measured, part_notes = split_into_parts(rows, task, name)
    split, lengths, skipped_notes = measure_split(name, measured, task)
    cut = cut_note(lengths, task.views.length_unit)
    for note in filter(None, [*part_notes, *skipped_notes, cut]):
        console.print(note)
    return split, evaluate_split(model, task, split, accelerator, block=batch_size).metrics


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
    precision = run.read_config()["train"]["precision"]
    is_supported = (
        precision == "fp32"
        or device.type == "cuda"
        or (precision == "bf16" and has_native_bf16(device))
    )
    return (precision, "as in training") if is_supported else choose_precision(None, device)
