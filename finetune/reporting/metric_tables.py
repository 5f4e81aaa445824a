"""Metric tables of a finished run or of a later evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from finetune.config.best_metric import direction_of
from finetune.errors import shell_word
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.reporting.slice_tables import show_slices

Metrics = Mapping[str, Mapping[str, float]]
"""{split: {metric: value}}"""
CALIBRATION_COLUMNS = ("split", "measure", "before", "after")
SET_COLUMNS = ("coverage asked", "split", "measured", "labels per set", "sets of one label")
BY_LABEL = ("precision", "recall", "f1", "support")
# A longer table would scroll the one above it off the screen; metrics.jsonl has all labels.
MOST_LABELS = 30
MOST_GROUPS_SHOWN = 30
# A wider table would be wrapped; the file of the metrics has all of them.
MOST_COLUMNS = 8


def show_results(folder: RunFolder, console: Console) -> None:
    """Print the metrics of a finished run, the reload check, and the commands to run next."""
    results = folder.read("results.json")
    title, selected = f"results of step {results['step']}", results["selected_on"]
    untrained = _untrained(folder)
    show_metrics(title, results["metrics"], console, selected, untrained)
    if not results["metrics"]:
        console.print(f"{title}: no rows were held out, so nothing was measured")
    for split, groups in results.get("row_groups", {}).items():
        show_groups(f"{split} by group", groups, console)
    if selected:
        by = f" by {results['metric']}" if results.get("metric") else ""
        console.print(f"* optimistically biased: {selected} selected the checkpoint{by}")
    for note in worse_notes(results, untrained):
        console.print(note)
    if calibration := results.get("calibration"):
        rows = calibration_rows(calibration)
        console.table("calibration, with 95 % intervals", list(CALIBRATION_COLUMNS), rows)
        console.print(f"calibration: {calibration['note']}")
    if decisions := results.get("decisions"):
        if rows := set_rows(decisions):
            console.table("prediction sets, with 95 % intervals", list(SET_COLUMNS), rows)
        console.print(f"decisions: {decisions['note']}")
    show_slices(results, console)
    difference = results["reload_difference"]
    console.print(f"reload check passed (max relative difference {difference:.1e})")
    if rounding := results.get("rounding_difference"):
        console.print(f"rounded to output.dtype (max relative difference {rounding:.1e})")
    reports = folder.path / "reports"
    run = shell_word(folder.path)
    has_reports = any(path.is_file() for path in reports.rglob("*"))
    console.facts(
        {
            "model": str(folder.final),
            **({"reports": str(reports)} if has_reports else {}),
            "predict": f"finetune predict {run} DATA -o predictions.csv",
            "evaluate": f"finetune evaluate {run} DATA",
            "push": f"finetune push {run} OWNER/NAME",
        }
    )


def calibration_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return table rows of measured calibration: split, measure, before and after, as intervals."""
    titles = {"ece": "calibration error (ECE)", "log_loss": "log loss"}
    return [
        [split, title, *(_interval(measured, time, key) for time in CALIBRATION_COLUMNS[2:])]
        for split, measured in facts.get("measured", {}).items()
        for key, title in titles.items()
    ]


def set_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return table rows of measured prediction sets, in the order of SET_COLUMNS."""
    return [
        [
            f"{each['coverage']:g}{' of each label' if each['by_label'] else ''}",
            each["split"],
            "{:.4f} ({:.4f} to {:.4f})".format(*each["measured"]),
            f"{each['size'][0]:.3f}",
            f"{each['single']:.1%}",
        ]
        for each in facts.get("sets", [])
    ]


def _interval(measured: Mapping[str, Any], time: str, key: str) -> str:
    if time not in measured:
        return ""
    value, low, high = measured[time][key]
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def worse_notes(results: Mapping[str, Any], untrained: Metrics) -> list[str]:
    """Return a note for each split on which neither the loss nor the metric improved."""
    metric = results.get("metric") or "loss"
    sign = -1 if results.get("directions", {}).get(metric, direction_of(metric)) == "min" else 1
    notes = []
    for split, before in untrained.items():
        after = results["metrics"].get(split, {})
        if not {"loss", metric} <= before.keys() & after.keys():
            continue
        if after["loss"] > before["loss"] and sign * after[metric] <= sign * before[metric]:
            notes.append(
                f"{split} is worse than before training (loss {after['loss']:.4f}, before "
                f"{before['loss']:.4f}); try a lower optim.lr, or check the labels"
            )
    return notes


def show_metrics(
    title: str,
    metrics: Metrics,
    console: Console,
    selected: str | None = None,
    untrained: Metrics = MappingProxyType({}),
) -> None:
    """Print a table of the metrics of all splits, and one by label for each split.

    `selected` is the split that selected the checkpoint; it is marked. `untrained` holds metrics
    from before training, shown in columns of their own.
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


def show_groups(title: str, groups: Metrics, console: Console) -> None:
    """Print a table of the overall metrics of groups of rows, {group: {metric: value}}."""
    names = list(dict.fromkeys(name for metrics in groups.values() for name in overall(metrics)))
    names, more = names[:MOST_COLUMNS], names[MOST_COLUMNS:]
    largest = sorted(groups, key=lambda group: -groups[group]["rows"])[:MOST_GROUPS_SHOWN]
    rows = [[group, *(groups[group].get(name, "") for name in names)] for group in largest]
    console.table(title, ["value", *names], rows)
    if len(groups) > len(rows):
        console.print(f"the {len(rows)} largest of {len(groups)}; the file of the metrics has all")
    if more:
        console.print(f"not shown: {', '.join(more)}; the file of the metrics has all")


def _untrained(folder: RunFolder) -> Metrics:
    """Return the metrics from before the first step."""
    return {line["split"]: line for line in folder.history() if line["step"] == 0}


def overall(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that do not belong to a single label."""
    label_metrics = {f"{kind}/{label}" for label in _supports(metrics) for kind in BY_LABEL}
    return {name: value for name, value in metrics.items() if name not in label_metrics}


def by_label(metrics: Mapping[str, float]) -> list[list[str | float]]:
    """Return one table row per label: its name and the values of BY_LABEL, support as an int."""
    return [
        [label, *(metrics[f"{kind}/{label}"] for kind in BY_LABEL[:-1]), int(support)]
        for label, support in _supports(metrics).items()
    ]


def _supports(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return {label: number of its rows} for labels with all of BY_LABEL, in the task's order."""
    labels = [key.removeprefix("support/") for key in metrics if key.startswith("support/")]
    complete = [label for label in labels if all(f"{kind}/{label}" in metrics for kind in BY_LABEL)]
    return {label: metrics[f"support/{label}"] for label in complete}
