"""Side-by-side comparison of runs: differences in their configs, and their metrics."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import name_file_in_errors
from finetune.reporting.console import Console, format_setting
from finetune.reporting.metric_tables import overall

MISSING = ""
# Output paths differ between any two runs.
_IGNORED = ("output.",)

Cells = dict[str, list[Any]]
"""{key or metric: its value in each run}"""


def show_comparison(runs: Sequence[str], output: Path | None = None) -> None:
    """Print tables with one column per run; write them to `output` with one row per run.

    Raises ConfigError or CheckpointError for a folder that is not a run.
    """
    if output is not None and output.suffix != ".csv":
        raise ConfigError(f"-o {output}: the table is written as CSV; name a .csv file")
    names, keys, metrics = compare_runs(runs)
    console = Console()
    shown = [[key, *map(_short, values)] for key, values in keys.items()]
    if shown:
        console.table("config differences", ["key", *names], shown)
    else:
        console.print("the configs are identical")
    console.table("metrics", ["metric", *names], [[key, *cells] for key, cells in metrics.items()])
    if output is not None:
        columns = {"run": names, **keys, **metrics}
        with name_file_in_errors(output), output.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))


def compare_runs(runs: Sequence[str | Path]) -> tuple[list[str], Cells, Cells]:
    """Return (names of the runs, config keys that differ, metrics as split/metric)."""
    if len(runs) < 2:
        raise ConfigError("compare: needs at least two runs; name two or more")
    folders = [RunFolder(Path(run)) for run in runs]
    results = [folder.read("results.json") if folder.finished else {} for folder in folders]
    configs = [_config(folder) for folder in folders]
    keys = {
        key: values
        for key in dict.fromkeys(key for config in configs for key in config)
        if _differ(values := [config.get(key, MISSING) for config in configs])
    }
    metrics_by_run = [
        {
            f"{split}/{name}": value
            for split, metrics in result.get("metrics", {}).items()
            for name, value in overall(metrics).items()
        }
        for result in results
    ]
    names = dict.fromkeys(name for metrics in metrics_by_run for name in metrics)
    cells = {name: [metrics.get(name, MISSING) for metrics in metrics_by_run] for name in names}
    cells |= {"step": [result.get("step", "not finished") for result in results]}
    return _short_names(folders), keys, cells


def _config(folder: RunFolder) -> dict[str, Any]:
    """Return {"section.key": value} of a run's resolved config, without its output paths."""
    folder.read("run.json")  # raises if the folder is not a run
    sections = folder.read_config().items()
    flat = {f"{section}.{key}": value for section, keys in sections for key, value in keys.items()}
    return {key: value for key, value in flat.items() if not key.startswith(_IGNORED)}


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _short_names(folders: Sequence[RunFolder]) -> list[str]:
    """Return the last part of each path, or the full paths if two are equal."""
    names = [folder.path.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder.path) for folder in folders]


def _short(value: Any) -> str:
    text = "null" if value is None else format_setting(value)
    return text if len(text) <= 40 else f"...{text[-37:]}"
