"""The metrics of a split as tables: those of all its rows, and those of each label."""

from __future__ import annotations

from collections.abc import Mapping

BY_LABEL = ("precision", "recall", "f1", "support")


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
