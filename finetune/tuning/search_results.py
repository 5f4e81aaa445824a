"""Results of a search: the table of its trials, the best one's config, a data file and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from finetune.config.loading import Loaded
from finetune.config.yaml import flatten
from finetune.errors import format_count, shell_word
from finetune.inference.predictor import load
from finetune.io.files import atomic, write_text
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console, format_value
from finetune.search_space.search_plan import SearchPlan
from finetune.search_space.space import format_item
from finetune.tuning.measured import RankedBy, expected_optimism, read_measured
from finetune.tuning.search_folder import SearchFolder
from finetune.tuning.study import TrialRecord, best_of

if TYPE_CHECKING:
    import pandas

_SHOWN = 20  # trials in the table


@dataclass(frozen=True)
class SearchResults:
    """The trials of a search so far, of which at least one is complete.

    Attributes:
        optimism: by how much the best score is expected to exceed that on new rows; NaN: unknown.
    """

    folder: SearchFolder
    plan: SearchPlan
    records: Sequence[TrialRecord]
    best: TrialRecord
    metric: RankedBy
    importances: dict[str, float]
    optimism: float = 0.0

    @property
    def command(self) -> str:
        """The command that trains the best trial again."""
        return f"finetune train {shell_word(self.folder.path / 'best.yaml')}"

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials, best first, then the others."""
        order = ("complete", "pruned", "failed", "running")
        return sorted(
            self.records, key=lambda r: (order.index(r.state), -(r.score or -math.inf), r.number)
        )

    def table(self) -> pandas.DataFrame:
        """Return one row per trial."""
        import pandas

        rows = []
        for record in self.records:
            score = None if record.score is None else self.metric.value(record.score)
            values = {key: record.values.get(key) for key in self.plan.space}
            rows.append(
                {
                    "trial": record.number,
                    "state": record.state,
                    self.metric.name: score,
                    # The last one of a complete trial is not for the pruner.
                    "evaluations": len(record.evaluations) + (record.state == "complete"),
                    "seconds": record.seconds,
                    **values,
                    "folder": str(self.folder.trial(record.number)),
                    "reason": record.reason,
                }
            )
        table = pandas.DataFrame(rows)
        for key in self.plan.space:  # a column of a data file has one type
            if len({type(value) for value in table[key].dropna()}) > 1:
                table[key] = [None if value is None else format_item(value) for value in table[key]]
        return table


def read_results(
    folder: SearchFolder,
    plan: SearchPlan,
    records: list[TrialRecord],
    importances: dict[str, float],
) -> SearchResults | None:
    """Read the results of a search; None if no trial is complete."""
    best = best_of(records)
    if best is None:
        return None
    _, metric = read_measured(folder.measured(best.number))
    return SearchResults(folder, plan, records, best, metric, importances)


def estimate_optimism(results: SearchResults) -> float:
    """Estimate the optimism of the best of all complete trials."""
    complete = [record for record in results.records if record.state == "complete"]
    paths = [results.folder.measured(record.number) for record in complete]
    task = load(results.folder.trial(results.best.number)).trained_task
    return expected_optimism(paths, results.metric, task.summarize)


def write_results(results: SearchResults) -> None:
    """Write best.yaml, trials.parquet and the pictures into the folder of the search."""
    from finetune.tuning.search_plots import plot_importances, plot_keys, plot_search

    folder, best = results.folder.path, results.best
    of = f"{format_count(len(results.records), 'trial')}, {results.folder.trial(best.number)}"
    header = f"# The best of {of}: {describe_best(results)}\n"
    loaded = results.plan.load(best.values)
    if not {"data.source", "data.train"} & loaded.origins.keys():
        header += "# Its data was made in Python: finetune.train(config=..., data=...)\n"
    header += f"#\n#   {results.command}\n\n"
    write_text(folder / "best.yaml", header + given_yaml(loaded))
    with atomic(folder / "trials.parquet") as partial:
        results.table().to_parquet(partial)
    pictures = {"history.png": plot_search(results.records, results.metric)}
    if results.plan.space:
        pictures["keys.png"] = plot_keys(results.records, results.plan.space, results.metric)
    if results.importances:
        pictures["importances.png"] = plot_importances(results.importances)
    for name, figure in pictures.items():
        with atomic(folder / name) as partial:
            figure.savefig(partial, format="png", dpi=120)


def show_search(results: SearchResults, console: Console) -> None:
    """Print the table of trials, how the best one was measured, and the next commands."""
    name = results.metric.name
    keys = list(results.plan.space)
    rows = [
        [
            f"{'* ' if record == results.best else ''}{record.number}",
            record.state,
            "" if record.score is None else results.metric.value(record.score),
            *(format_item(record.values[key]) if key in record.values else "" for key in keys),
        ]
        for record in results.ranked[:_SHOWN]
    ]
    more = len(results.records) - len(rows)
    console.table("trials", ["trial", "", f"validation {name}", *keys], rows)
    if more:
        console.print(f"and {more} more in {results.folder.path / 'trials.parquet'}")
    for record in [r for r in results.records if r.reason][:3]:
        console.print(f"trial {record.number} failed: {record.reason}")
    console.print(f"best: trial {results.best.number}, {describe_best(results)}")
    for line in optimism_lines(results):
        console.print(line)
    if results.importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in results.importances.items())
        console.print(f"importance, share of the variation of the score: {shares}")
    folder = results.folder
    console.facts(
        {
            "run": str(folder.trial(results.best.number)),
            "train": results.command,
            "compare": f"finetune compare {shell_word(folder.path)}",
            "trials": str(folder.path / "trials.parquet"),
            "pictures": str(folder.path / "*.png"),
        }
    )


def describe_best(results: SearchResults) -> str:
    """Describe the best trial: its validation and its test metric."""
    assert results.best.score is not None
    words = f"validation {results.metric.describe(results.best.score)}"
    if (seeds := len(results.best.scores)) > 1:
        mean = results.best.score
        spread = math.sqrt(sum((s - mean) ** 2 for s in results.best.scores) / (seeds - 1))
        words += f" (mean of {seeds} seeds, standard deviation {spread:.4f})"
    run = RunFolder(results.folder.trial(results.best.number))
    test = run.read("results.json")["metrics"].get("test", {})
    if results.metric.name in test:
        words += f", test {format_value(test[results.metric.name])}"
    return words


def optimism_lines(results: SearchResults) -> list[str]:
    """Say in words how much of the best validation score is luck of the draw."""
    count = sum(record.state == "complete" for record in results.records)
    if count < 2:
        return []
    if math.isnan(results.optimism):
        return ["the best validation score is optimistic: it is the best of several"]
    assert results.best.score is not None
    honest = results.metric.value(results.best.score - results.optimism)
    return [
        f"luck of the draw: the best of {count} is expected to score {results.optimism:.4f} better "
        f"on the rows that selected it than on new ones, where {format_value(honest)} is expected",
    ]


def given_yaml(loaded: Loaded) -> str:
    """Format the keys of a config that were set, as YAML that gives the same config."""
    values, sections = flatten(loaded.config), dict[str, dict[str, Any]]()
    for key in loaded.origins:
        section, _, leaf = key.partition(".")
        sections.setdefault(section, {})[leaf] = values[key]
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
