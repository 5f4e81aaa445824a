"""Side-by-side comparison of runs: metrics, cost, and what their configs differ in and share."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.best_metric import direction_of
from finetune.errors import ConfigError
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import name_file_in_errors
from finetune.reporting.console import Console, format_setting, format_value
from finetune.reporting.metric_tables import overall

MISSING = ""
# Output paths differ between any two runs.
_IGNORED = ("output.",)
# Keys that every user sets; runs of earlier versions did not record which ones were.
_NAMES = ("task.name", "model.name", "data.source", "method.name")

Cells = dict[str, list[Any]]
"""{key or metric: its value in each run}"""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        names: of the runs.
        metrics: {"split/metric": values}; None where a run lacks it.
        best: {"split/metric": position of the run with the best value}, for those that differ.
        incomparable: splits whose rows differ between the runs; no run is the best on them.
        costs: {"step", "seconds" and "trained parameters": values}; None where unknown.
        differences: config keys that differ; a key that some of the runs do not have (of another
            method, say) only if it was set, or differs among the others.
        shared: config keys that were set, to the same value in all runs.
    """

    names: list[str]
    metrics: Cells
    best: dict[str, int]
    incomparable: list[str]
    costs: Cells
    differences: Cells
    shared: dict[str, Any]

    @property
    def sections(self) -> dict[str, Cells]:
        """{section: {row: values}}, in display order."""
        shared = {key: [value] * len(self.names) for key, value in self.shared.items()}
        return {
            "metrics": self.metrics,
            "cost": self.costs,
            "differs": self.differences,
            "shared": shared,
        }


def show_comparison(runs: Sequence[str], output: Path | None = None) -> None:
    """Print tables with one column per run; write them to `output` with one row per run.

    Raises ConfigError or CheckpointError for a folder that is not a run.
    """
    if output is not None and output.suffix != ".csv":
        raise ConfigError(f"-o {output}: the table is written as CSV; name a .csv file")
    compared = compare_runs(runs)
    print_comparison(compared, Console())
    if output is not None:
        columns = {"run": compared.names, **compared.differences}
        columns |= compared.metrics | compared.costs
        with name_file_in_errors(output), output.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))


def print_comparison(compared: Comparison, console: Console) -> None:
    """Print the shared keys, and tables of the keys that differ, the metrics and the cost."""
    if compared.shared:
        console.heading("shared config")
        console.facts({key: _short(value) for key, value in compared.shared.items()})
    if compared.differences:
        rows = [[key, *map(_short, values)] for key, values in compared.differences.items()]
        console.table("config differences", ["key", *compared.names], rows)
    else:
        console.print("the configs are identical")
    rows = [
        [name, *_marked(values, compared.best.get(name))]
        for name, values in compared.metrics.items()
    ]
    console.table("metrics", ["metric", *compared.names], rows)
    if compared.best:
        console.print("* best of the runs")
    for split in compared.incomparable:
        console.print(f"the rows of {split} differ between the runs, so no run is marked as best")
    formats: dict[str, Callable[[Any], str]] = {"step": str, "seconds": "{:,.1f}".format}
    rows = [
        [name, *_formatted(values, formats.get(name, "{:,}".format))]
        for name, values in compared.costs.items()
    ]
    console.table("cost", ["", *compared.names], rows)


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Compare runs, or all runs of a folder.

    Raises ConfigError for fewer than two, CheckpointError for other folders.
    """
    folders = [RunFolder(path) for run in runs for path in _paths_of_runs(Path(run))]
    recorded = [folder.read("run.json") for folder in folders]  # raises if it is not a run
    if len(folders) < 2:
        raise ConfigError("compare: needs at least two runs; name two or more, or their folder")
    configs = [_config(folder) for folder in folders]
    were_set = {key for facts in recorded for key in facts.get("set", _NAMES)}
    results = [folder.read("results.json") if folder.finished else {} for folder in folders]
    metrics = _metrics(results)
    incomparable = _incomparable([facts["data"] for facts in recorded], results)
    directions: dict[str, str] = {}
    for result in results:
        directions |= result.get("directions", {})
    costs: Cells = {
        "step": [result.get("step", "not finished") for result in results],
        "seconds": [result.get("seconds") for result in results],
        "trained parameters": [result.get("parameters", {}).get("trained") for result in results],
    }
    return Comparison(
        names=_short_names(folders),
        metrics=metrics,
        best=_best(metrics, directions, incomparable),
        incomparable=incomparable,
        costs={name: each for name, each in costs.items() if set(each) != {None}},
        differences=_differences(configs, were_set),
        shared=_shared(configs, were_set),
    )


def _paths_of_runs(path: Path) -> list[Path]:
    """Return the runs in a folder that is not a run itself, else the path."""
    if (path / "run.json").is_file() or not path.is_dir():
        return [path]
    return sorted(child for child in path.iterdir() if (child / "run.json").is_file()) or [path]


def _incomparable(
    digests: Sequence[Mapping[str, str]], results: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the splits that have metrics of several runs on different rows."""
    rows: dict[str, set[str | None]] = {}
    for digest, result in zip(digests, results, strict=True):
        for split in result.get("metrics", {}):
            rows.setdefault(split, set()).add(digest.get(split))
    return [split for split, each in rows.items() if len(each) > 1]


def _metrics(results: Sequence[Mapping[str, Any]]) -> Cells:
    metrics_by_run = [
        {
            f"{split}/{name}": value
            for split, metrics in result.get("metrics", {}).items()
            for name, value in overall(metrics).items()
        }
        for result in results
    ]
    names = dict.fromkeys(name for metrics in metrics_by_run for name in metrics)
    return {name: [metrics.get(name) for metrics in metrics_by_run] for name in names}


def _best(
    metrics: Cells, directions: Mapping[str, str], incomparable: Collection[str]
) -> dict[str, int]:
    """Return {"split/metric": position of the best run}, where values differ."""
    best = {}
    for name, values in metrics.items():
        split, _, metric = name.partition("/")
        if split in incomparable:
            continue
        sign = 1 if directions.get(metric, direction_of(metric)) == "max" else -1
        ranked = sorted((sign * v, -place) for place, v in enumerate(values) if v is not None)
        if len(ranked) > 1 and ranked[0][0] < ranked[-1][0]:
            best[name] = -ranked[-1][1]
    return best


def _config(folder: RunFolder) -> dict[str, Any]:
    """Return {"section.key": value} of a run's resolved config, without its output paths."""
    sections = folder.read_config().items()
    flat = {f"{section}.{key}": value for section, keys in sections for key, value in keys.items()}
    return {key: value for key, value in flat.items() if not key.startswith(_IGNORED)}


def _differences(configs: Sequence[Mapping[str, Any]], were_set: Collection[str]) -> Cells:
    cells: Cells = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config[key] for config in configs if key in config]
        is_partial = len(values) < len(configs)
        if any(value != values[0] for value in values) or (is_partial and key in were_set):
            cells[key] = [config.get(key, MISSING) for config in configs]
    return cells


def _shared(configs: Sequence[Mapping[str, Any]], were_set: Collection[str]) -> dict[str, Any]:
    first, *others = configs
    return {
        key: value
        for key, value in first.items()
        if key in were_set and all(key in other and other[key] == value for other in others)
    }


def _short_names(folders: Sequence[RunFolder]) -> list[str]:
    """Return the last part of each path, or the full paths if two are equal."""
    names = [folder.path.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder.path) for folder in folders]


def _marked(values: Sequence[Any], best: int | None) -> list[str]:
    """Format the values of a metric; the best one has an asterisk."""
    texts = _formatted(values, format_value)
    return [f"* {text}" if place == best else text for place, text in enumerate(texts)]


def _formatted(values: Sequence[Any], form: Callable[[Any], str]) -> list[str]:
    return ["" if value is None else form(value) for value in values]


def _short(value: Any) -> str:
    text = "null" if value is None else format_setting(value)
    return text if len(text) <= 40 else f"...{text[-37:]}"
