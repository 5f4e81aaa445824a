"""The command `evaluate`: metrics of a model on labeled rows, or those stored by its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.preflight import check_model
from finetune.config.formats import WRITTEN_TABLES
from finetune.data.source import Source, take_report_keys
from finetune.errors import ConfigError, format_count, shell_word
from finetune.io.files import write_json
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import name_file_in_errors
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_groups, show_metrics, show_results
from finetune.reporting.slice_tables import show_slices

if TYPE_CHECKING:
    from finetune.inference.evaluate import Measured

BY = "by"


def show_run(run: str, output: Path | None) -> None:
    """Print the metrics of a finished run; write {split: {metric: value}} to `output`."""
    _check_json(output)
    folder = RunFolder(Path(run))
    if (folder.path / "task.json").is_file():
        raise ConfigError(
            f"{run}: a model without the results of its run; give the run folder, or name the rows "
            f"to evaluate on: finetune evaluate {shell_word(run)} DATA"
        )
    metrics = folder.read("results.json")["metrics"]
    from finetune.distributed.launch import this_process

    if this_process().is_main_process:
        show_results(folder, Console())
        if output is not None:
            with name_file_in_errors(output):
                write_json(output, metrics)


def show_evaluation(
    run: str, source: Source, output: Path | None, batch_size: int, *, trust_code: bool = False
) -> None:
    """Evaluate a model on labeled rows, print the metrics and write reports.

    `output` is a .json file for the metrics alone, or a folder for metrics and reports; None: the
    reports are written into those of the run. The option "by" of the source is a column that splits
    the metrics. Raises FinetuneError.
    """
    _check_output(output)
    options, report = take_report_keys(source.options, "command line")
    by = str(options.pop(BY)) if BY in options else None
    chosen = replace(source, options=options)
    check_model(run, chosen)
    from finetune.distributed.launch import keep_freed_memory, this_process
    from finetune.inference.evaluate import evaluate_source
    from finetune.reports.slices import check_report_columns, measure_report

    keep_freed_memory()
    is_main = this_process().is_main_process
    console = Console(enabled=is_main)
    measured = evaluate_source(run, chosen, console, batch_size, by, trust_code=trust_code)
    groups = measured.metrics_by(by) if by is not None else {}
    if not is_main:
        return
    divided = dict[str, Any]()
    if report is not None:
        check_report_columns(report, measured.rows, measured.task.rows)
        with console.during("measuring slices"):
            divided = measure_report(measured, report)
    title = f"{format_count(len(measured.split), 'row')} of {source.name}"
    show_metrics(title, {measured.split.name: measured.metrics}, console)
    if groups:
        show_groups(f"by {by}", groups, console)
    show_slices(divided, console)
    results: dict[str, Any] = dict(measured.metrics)
    results |= {"by": {by: groups}} if groups else {}
    results |= divided
    _write(measured, results, run, source, output, console)


def _write(
    measured: Measured,
    results: dict[str, Any],
    run: str,
    source: Source,
    output: Path | None,
    console: Console,
) -> None:
    if output is not None and output.suffix == ".json":
        with name_file_in_errors(output):
            write_json(output, results)
        return
    folder = output or _report_folder(run, source)
    if folder is None:
        console.print("reports: not written, since this is no run on disk; name a folder with -o")
        return
    with name_file_in_errors(folder):
        measured.write_reports(folder)
        write_json(folder / "metrics.json", results)
    console.facts({"reports": str(folder)})


def _report_folder(run: str, source: Source) -> Path | None:
    """Return the folder of the reports on a source among those of a run; None without a run."""
    if not RunFolder(Path(run)).has_config:
        return None
    return Path(run) / "reports" / "evaluate" / source.folder_name


def _check_json(output: Path | None) -> None:
    if output is not None and output.suffix != ".json":
        raise ConfigError(f"-o {output}: metrics are written as JSON; name a .json file")


def _check_output(output: Path | None) -> None:
    if output is None or output.is_dir():
        return
    if output.exists() and output.suffix != ".json":
        raise ConfigError(f"-o {output}: this is a file; name a folder or a .json file")
    if output.suffix in WRITTEN_TABLES and output.suffix != ".json":
        raise ConfigError(
            f"-o {output}: name a .json file for the metrics, or a folder for metrics and reports"
        )
