"""A fine-tuned model measured on labelled rows; or what its training measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from finetune.batching.data_loader import measured_split
from finetune.data.opening import FIRST_VALUES, open_rows
from finetune.data.source import Source
from finetune.data.validation import check_rows
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision, has_native_bf16
from finetune.errors import ConfigError
from finetune.export.limitations import cut_note
from finetune.inference.evaluation import evaluate_split
from finetune.inference.model_loading import load_task, model_folder
from finetune.io.files import write_json
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import naming
from finetune.model import saved_model
from finetune.reporting.console import Console, format_count
from finetune.reporting.metric_tables import show_metrics, show_results
from finetune.task import Task
from finetune.task_parts import Row


def show_run(run: str, output: Path | None) -> None:
    """Print what a finished run measured; write {split: {metric: value}} to `output`."""
    _check_json(output)
    folder = RunFolder(Path(run))
    if not folder.finished:
        raise ConfigError(
            f"{run}: holds no results of a finished run; give its folder, or name the rows to "
            f"measure on: finetune evaluate {run} DATA"
        )
    metrics = folder.read("results.json")["metrics"]
    if this_process().is_main_process:
        show_results(folder, Console())
        if output is not None:
            with naming(output):
                write_json(output, metrics)


def measure(run: str, source: Source, output: Path | None, batch_size: int) -> dict[str, float]:
    """Print the metrics of a final model on labelled rows; write {metric: value} to `output`.

    Any number of processes gives the same metrics. Raises FinetuneError.
    """
    _check_json(output)
    state = this_process()
    console = Console(speaks=state.is_main_process)
    folder = model_folder(run)
    task = load_task(folder, source.options)
    rows, notes = open_rows(source.reference, source.config, source.split, task.config.formats)
    resolved = task.rows.resolve(rows[:FIRST_VALUES])
    task.settle(resolved.keys)
    notes += resolved.notes
    rows, faults = check_rows(source.reference, rows, labeled_faults(task), source.config.on_error)
    notes += task.views.compare(source.split or source.reference, rows)
    precision, reason = _precision(RunFolder(Path(run)), state.device)
    accelerator = make_accelerator(precision)
    processes = format_count(accelerator.num_processes, "process", "es")
    where = f"{accelerator.device.type}, {processes}, {precision}: {reason}"
    facts = {"model": str(folder), "data": "\n".join([*notes, *faults]), "device": where}
    console.facts({name: text for name, text in facts.items() if text})

    model = task.load_model(saved_model(folder)).to(accelerator.device)
    split, lengths, left_out = measured_split(source.split or source.reference, rows, task)
    for note in filter(None, [*left_out, cut_note(lengths, task.views.length_unit)]):
        console.print(note)
    metrics = evaluate_split(model, task, split, accelerator, block=batch_size).metrics
    show_metrics(f"{len(split)} rows of {source.reference}", {split.name: metrics}, console)
    if output is not None and state.is_main_process:
        with naming(output):
            write_json(output, metrics)
    return metrics


def labeled_faults(task: Task) -> Callable[[Sequence[Row]], list[list[str]]]:
    """What is wrong with rows that a trained task is to be measured on."""

    def check(rows: Sequence[Row]) -> list[list[str]]:
        found = task.rows.validate_many(rows)
        return [own or list(task.unseen(row)) for own, row in zip(found, rows, strict=True)]

    return check


def _precision(run: RunFolder, device: torch.device) -> tuple[str, str]:
    """That of the run, if this device computes it; else what training would choose here."""
    if not run.has_config:
        return choose_precision(None, device)
    asked = run.read_config()["train"]["precision"]
    here = asked == "fp32" or device.type == "cuda" or (asked == "bf16" and has_native_bf16(device))
    return (asked, "as in training") if here else choose_precision(None, device)


def _check_json(output: Path | None) -> None:
    if output is not None and output.suffix != ".json":
        raise ConfigError(f"-o {output}: metrics are written as JSON; name a .json file")
