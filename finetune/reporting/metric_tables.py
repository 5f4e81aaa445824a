"""The metrics of a finished run, or of a later measurement, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console

Metrics = Mapping[str, Mapping[str, float]]
"""{split: {metric: value}}"""

BY_LABEL = ("precision", "recall", "f1", "support")
# A table by label that is longer than a screen hides the one above it; metrics.jsonl has all.
MOST_LABELS = 30


def show_results(folder: RunFolder, console: Console) -> None:
    """The tables of metrics of a finished run, and what to do next."""
    results = folder.read("results.json")
    title, selected = f"results of step {results['step']}", results["selected_on"]
    show_metrics(title, results["metrics"], console, selected, _untrained(folder))
    difference = results["reload_difference"]
    console.print(f"saved and reloaded: the outputs differ by {difference:.1e} of the largest")
    if rounding := results.get("rounding_difference"):
        console.print(
            f"rounded by output.dtype: the outputs moved by {rounding:.1e} of the largest"
        )
    console.facts(
        {
            "model": str(folder.final),
            "reports": str(folder.path / "reports"),
            "predict": f"finetune predict {folder.path} DATA -o predictions.csv",
            "evaluate": f"finetune evaluate {folder.path} DATA",
            "push": f"finetune push {folder.path} OWNER/NAME",
        }
    )


def show_metrics(
    title: str,
    metrics: Metrics,
    console: Console,
    selected: str | None = None,
    untrained: Metrics = MappingProxyType({}),
) -> None:
    """A table of the metrics of each split, and one by label; `selected` marks a split.

    What was `untrained` stands beside them.
    """
    if not metrics:
        return
    names = dict.fromkeys(name for split in metrics.values() for name in overall(split))
    columns = {f"{name}*" if name == selected else name: split for name, split in metrics.items()}
    columns |= {f"{name}, untrained": split for name, split in untrained.items()}
    rows = [[name, *(split.get(name, "") for split in columns.values())] for name in names]
    console.table(title, ["metric", *columns], rows)
    for name, split in metrics.items():
        labels = by_label(split)
        if 0 < len(labels) <= MOST_LABELS:
            console.table(f"{name} by label", ["label", *BY_LABEL], labels)
    if selected:
        console.print(f"* {selected} selected the checkpoint, so its metrics are a little too good")


def _untrained(folder: RunFolder) -> Metrics:
    """What was measured before the first step."""
    return {line["split"]: line for line in folder.history() if line["step"] == 0}


def overall(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are of no single label."""
    of_labels = {f"{kind}/{label}" for label in _labels(metrics) for kind in BY_LABEL}
    return {name: value for name, value in metrics.items() if name not in of_labels}


def by_label(metrics: Mapping[str, float]) -> list[list[str | float]]:
    """A row for each label: its name, the shares of `BY_LABEL`, and its support as an integer."""
    return [
        [label, *(metrics[f"{kind}/{label}"] for kind in BY_LABEL[:-1]), int(support)]
        for label, support in _labels(metrics).items()
    ]


def _labels(metrics: Mapping[str, float]) -> dict[str, float]:
    """{label: how many rows have it}, in the task's order."""
    named = [key.removeprefix("support/") for key in metrics if key.startswith("support/")]
    whole = [label for label in named if all(f"{kind}/{label}" in metrics for kind in BY_LABEL)]
    return {label: metrics[f"support/{label}"] for label in whole}
