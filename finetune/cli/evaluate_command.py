"""The command `evaluate`: metrics of a model on labeled rows, or those stored by its run."""

from __future__ import annotations

from pathlib import Path

from finetune.data.source import Source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError
from finetune.inference.evaluate import evaluate_source
from finetune.io.files import write_json
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import name_file_in_errors
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_metrics, show_results


def show_run(run: str, output: Path | None) -> None:
    """Print the metrics of a finished run; write {split: {metric: value}} to `output`."""
    _check_json(output)
    folder = RunFolder(Path(run))
    if not folder.finished:
        raise ConfigError(
            f"{run}: no results of a finished run here; give the run folder, or name the rows to "
            f"evaluate on: finetune evaluate {run} DATA"
        )
    metrics = folder.read("results.json")["metrics"]
    if this_process().is_main_process:
        show_results(folder, Console())
        if output is not None:
            with name_file_in_errors(output):
                write_json(output, metrics)


def show_evaluation(run: str, source: Source, output: Path | None, batch_size: int) -> None:
    """Evaluate a model on labeled rows and print the metrics; write {metric: value} to `output`.

    Raises FinetuneError.
    """
    _check_json(output)
    is_main = this_process().is_main_process
    console = Console(enabled=is_main)
    split, metrics = evaluate_source(run, source, console, batch_size)
    show_metrics(f"{len(split)} rows of {source.name}", {split.name: metrics}, console)
    if output is not None and is_main:
        with name_file_in_errors(output):
            write_json(output, metrics)


def _check_json(output: Path | None) -> None:
    if output is not None and output.suffix != ".json":
        raise ConfigError(f"-o {output}: metrics are written as JSON; name a .json file")
