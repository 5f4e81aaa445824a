"""Runs side by side: what differs in their configs, and what they measured."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import naming
from finetune.reporting.console import Console, format_setting
from finetune.reporting.metric_tables import overall

MISSING = ""
# Where a run lies says nothing of what it is.
_PLACES = ("output.",)

Cells = dict[str, list[Any]]
"""{what: its value in each run}"""


def show_comparison(runs: Sequence[str], output: Path | None = None) -> None:
    """Print a table with a column for each run; write it to `output` with a row for each.

    Raises ConfigError or CheckpointError for a folder that holds no run.
    """
    if output is not None and output.suffix != ".csv":
        raise ConfigError(f"-o {output}: the table is written as CSV; name a .csv file")
    names, keys, metrics = compare_runs(runs)
    console = Console()
    shown = [[key, *map(_short, values)] for key, values in keys.items()]
    if shown:
        console.table("what differs", ["key", *names], shown)
    else:
        console.print("the configs do not differ")
    console.table("metrics", ["metric", *names], [[key, *cells] for key, cells in metrics.items()])
    if output is not None:
        columns = {"run": names, **keys, **metrics}
        with naming(output), output.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))


def compare_runs(runs: Sequence[str | Path]) -> tuple[list[str], Cells, Cells]:
    """(names of the runs, the keys in which they differ, their metrics as split/metric)."""
    if len(runs) < 2:
        raise ConfigError("compare: name two runs or more")
    folders = [RunFolder(Path(run)) for run in runs]
    results = [folder.read("results.json") if folder.finished else {} for folder in folders]
    configs = [_config(folder) for folder in folders]
    keys = {
        key: values
        for key in dict.fromkeys(key for config in configs for key in config)
        if _differ(values := [config.get(key, MISSING) for config in configs])
    }
    measured = [
        {
            f"{split}/{name}": value
            for split, each in held.items()
            for name, value in overall(each).items()
        }
        for held in (result.get("metrics", {}) for result in results)
    ]
    names = dict.fromkeys(name for found in measured for name in found)
    metrics = {name: [found.get(name, MISSING) for found in measured] for name in names}
    metrics |= {"step": [result.get("step", "not finished") for result in results]}
    return _short_names(folders), keys, metrics


def _config(folder: RunFolder) -> dict[str, Any]:
    """{"section.key": value} of a run's resolved config, without where it lies."""
    folder.read("run.json")  # so that a folder that is no run is refused
    sections = folder.read_config().items()
    flat = {f"{section}.{key}": value for section, keys in sections for key, value in keys.items()}
    return {key: value for key, value in flat.items() if not key.startswith(_PLACES)}


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _short_names(folders: Sequence[RunFolder]) -> list[str]:
    """The last part of each path, or the whole where two are alike."""
    last = [folder.path.name for folder in folders]
    return last if len(set(last)) == len(last) else [str(folder.path) for folder in folders]


def _short(value: Any) -> str:
    text = "null" if value is None else format_setting(value)
    return text if len(text) <= 40 else f"...{text[-37:]}"
