"""Tables and notes of metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_groups, show_results, worse_notes

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
    assert "not shown" not in output


def test_show_groups_names_the_metrics_that_it_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = dict.fromkeys(("ap", "ap50", "ap75", "ar1", "ar10", "ar100", "m1", "m2"), 0.5)
    show_groups("by file", {"a.jpg": {"rows": 1, **metrics}}, Console())
    assert "not shown: m2;" in capsys.readouterr().out


def test_results_without_held_out_rows_name_no_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    results: dict[str, Any] = {
        "step": 2,
        "selected_on": None,
        "metrics": {},
        "reload_difference": 0.0,
    }
    folder.write("results.json", results)
    show_results(folder, Console())
    output = capsys.readouterr().out
    assert "results of step 2: no rows were held out, so nothing was measured" in output
    assert "reports" not in output
    (tmp_path / "reports" / "test").mkdir(parents=True)
    (tmp_path / "reports" / "test" / "predictions.csv").touch()
    show_results(folder, Console())
    assert f"reports   {tmp_path / 'reports'}" in capsys.readouterr().out
