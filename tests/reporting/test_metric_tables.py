"""Tables and notes of metrics."""

from __future__ import annotations

import pytest

from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_groups, worse_notes

BEFORE = {"validation": {"step": 0, "loss": 1.0, "accuracy": 0.5, "rmse": 2.0}}


@pytest.mark.parametrize(
    ("loss", "accuracy", "noted"), [(3.0, 0.4, True), (3.0, 0.6, False), (0.9, 0.4, False)]
)
def test_a_split_that_training_made_worse_is_noted(
    loss: float, accuracy: float, noted: bool
) -> None:
    results = {"metric": "accuracy", "metrics": {"validation": {"loss": loss}}}
    results["metrics"]["validation"]["accuracy"] = accuracy  # type: ignore[index]
    notes = worse_notes(results, BEFORE)
    assert len(notes) == noted
    assert not noted or "loss 3.0000, before 1.0000" in notes[0]


def test_notes_on_worse_splits_know_the_direction_of_the_metric() -> None:
    results = {"metric": "rmse", "metrics": {"validation": {"loss": 3.0, "rmse": 1.0}}}
    assert worse_notes(results, BEFORE) == []
    results["metrics"] = {"validation": {"loss": 3.0, "rmse": 3.0}}
    assert len(worse_notes(results, BEFORE)) == 1
    assert worse_notes({"metrics": {"test": {"loss": 3.0}}}, BEFORE) == []


def test_show_groups_prints_the_largest_groups(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {f"g{size}": {"rows": float(size), "accuracy": 0.5} for size in range(1, 41)}
    show_groups("by group", groups, Console())
    output = capsys.readouterr().out
    assert "g40" in output and "g11" in output and "g10 " not in output
    assert "the 30 largest of 40; the file of the metrics has all" in output
