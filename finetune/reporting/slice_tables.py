"""Tables of slices and groups, from what results.json holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import listed
from finetune.reporting.console import Console

SLICE_COLUMNS = ("slice", "rows", "result", "gap to the rest")
GROUP_COLUMNS = ("column", "label", "rate", "difference", "by group")
MOST_SHOWN = 10


def slice_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return table rows of the slices that are worse than the rest, the worst first."""
    sign = 1 if facts["direction"] == "max" else -1
    return [
        [
            f"{each['column']}={each['value']}",
            str(each["rows"]),
            _interval(each["result"]),
            _interval(each["gap"], signed=True),
        ]
        for each in facts["slices"]
        if sign * each["gap"][0] < 0
    ][:MOST_SHOWN]


def slice_note(facts: Mapping[str, Any]) -> str:
    """Return a sentence on how many slices were measured, and which were not."""
    sign = 1 if facts["direction"] == "max" else -1
    intervals = [each["gap"][1:] for each in facts["slices"] if len(each["gap"]) > 1]
    worse = sum(max(sign * bound for bound in ends) < 0 for ends in intervals)
    note = (
        f"{len(facts['slices'])} slices of {facts['split']} by {facts['metric']} "
        f"({facts['overall']:.4f} on all rows); {worse} worse than the rest by more than chance "
        "(95 % intervals, one by one)"
    )
    small = [f"{name} ({rows})" for name, rows in facts["too_small"].items()]
    return f"{note}; too small to measure: {listed(small, 8)}" if small else note


def group_rows(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return table rows of the largest differences between groups."""
    return [
        [
            each["column"],
            each["label"],
            each["rate"],
            f"{each['difference']:.4f}",
            ", ".join(f"{name} {rate:.4f}" for name, rate in each["rates"].items()),
        ]
        for each in groups
        if len(each["rates"]) > 1
    ][:MOST_SHOWN]


def group_note(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on groups that are too small to measure, "" without any."""
    small = {
        f"{each['column']}={name} ({rows} rows for the {each['rate']} of {each['label']})"
        for each in groups
        for name, rows in each["too_small"].items()
    }
    return f"groups too small to measure: {listed(sorted(small), 8)}" if small else ""


def show_slices(results: Mapping[str, Any], console: Console) -> None:
    """Print the slices and groups of results.json or of an evaluation, if it has any."""
    if facts := results.get("slices"):
        if rows := slice_rows(facts):
            title = f"slices of {facts['split']} by {facts['metric']}, with 95 % intervals"
            console.table(title, list(SLICE_COLUMNS), rows)
        console.print(f"slices: {slice_note(facts)}")
    if groups := results.get("groups"):
        if rows := group_rows(groups):
            console.table("differences between groups", list(GROUP_COLUMNS), rows)
        if note := group_note(groups):
            console.print(note)


def _interval(estimate: Sequence[float], *, signed: bool = False) -> str:
    value, *ends = (f"{number:{'+' if signed else ''}.4f}" for number in estimate)
    return f"{value} ({ends[0]} to {ends[1]})" if ends else value
