"""Comparison of runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.config.yaml import parse_value
from finetune.reporting.comparison import compare_runs
from tests.support.command_line import finetune


@pytest.fixture
def other(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run with another learning rate, without checkpoints and final model."""
    folder = tmp_path / "other"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "final"))
    text = (folder / "config.yaml").read_text()
    assert parse_value(text)["optim"]["lr"] == 0.003
    (folder / "config.yaml").write_text(text.replace("lr: 0.003", "lr: 0.5", 1))
    return folder


def test_compare_prints_config_differences_and_metrics(
    finished_run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run, other, "-o", tmp_path / "runs.csv") == 0
    output = capsys.readouterr().out
    assert "optim.lr" in output
    assert "optim.warmup_ratio" not in output
    assert "output.dir" not in output
    assert "validation/accuracy" in output
    assert "precision/sport" not in output
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["optim.lr"] for row in rows] == ["0.003", "0.5"]
    assert len({row["validation/accuracy"] for row in rows}) == 1


def test_compare_prints_rates_without_floating_point_noise(
    finished_run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("lr: 0.5", f"lr: {3e-5 * 10}", 1))
    assert finetune("compare", finished_run, other) == 0
    output = capsys.readouterr().out
    assert "0.0003 " in output
    assert "0.00030000" not in output


def test_compare_runs_accepts_an_unfinished_run(finished_run: Path, other: Path) -> None:
    (other / "results.json").unlink()
    compared = compare_runs([finished_run, other])
    assert compared.names == ["news", "other"]
    assert compared.differences == {"optim.lr": [0.003, 0.5]}
    assert compared.costs["step"][1] == "not finished"
    assert compared.metrics["validation/accuracy"][1] is None
    assert compared.best == {}


def change_results(run: Path, **changes: Any) -> dict[str, Any]:
    path = run / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(results))
    return results


def test_compare_marks_the_best_run_by_the_direction_of_each_metric(
    finished_run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better = {"loss": -1.0, "accuracy": 1.1, "own": 1.0}
    results = change_results(other, metrics={"validation": better})
    assert results["directions"] == {
        **dict.fromkeys(("accuracy", "matthews", "roc_auc", "f1_macro", "f1_micro"), "max"),
        "loss": "min",
    }
    compared = compare_runs([finished_run, other])
    assert compared.best == {"validation/loss": 1, "validation/accuracy": 1}
    assert finetune("compare", finished_run, other) == 0
    assert "* 1.1000" in capsys.readouterr().out


def test_compare_shows_cost_and_shared_keys(
    finished_run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = change_results(other, seconds=1234.5)
    assert finetune("compare", finished_run, other) == 0
    output = capsys.readouterr().out
    assert "1,234.5" in output
    assert f"{results['parameters']['trained']:,}" in output
    shared = compare_runs([finished_run, other]).shared
    assert shared["train.epochs"] == 4
    assert "optim.lr" not in shared and "train.seed" not in shared


def test_compare_marks_no_run_as_best_on_different_rows(
    finished_run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_results(other, metrics={"validation": {"loss": -1.0}})
    facts = json.loads((other / "run.json").read_text())
    facts["data"]["validation"] = "of other rows"
    (other / "run.json").write_text(json.dumps(facts))
    assert compare_runs([finished_run, other]).best == {}
    assert finetune("compare", finished_run, other) == 0
    assert "the rows of validation differ between the runs" in capsys.readouterr().out


def test_compare_takes_a_folder_of_runs(finished_run: Path, other: Path) -> None:
    shutil.copytree(other, other.parent / "runs" / "first")
    shutil.copytree(other, other.parent / "runs" / "second")
    (other.parent / "runs" / "notes").mkdir()
    assert compare_runs([other.parent / "runs"]).names == ["first", "second"]


def test_compare_leaves_out_defaults_of_a_method_that_only_one_run_has(
    finished_run: Path, lora_run: Path
) -> None:
    compared = compare_runs([finished_run, lora_run])
    assert compared.differences["method.name"] == ["full", "lora"]
    assert "method.rslora" not in compared.differences
    change = json.loads((lora_run / "run.json").read_text())
    assert "method.rank" not in change["set"]


def test_compare_reports_a_missing_output_folder(
    finished_run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run, other, "-o", tmp_path / "none" / "runs.csv") == 2
    assert "runs.csv: cannot be written" in capsys.readouterr().err


def test_compare_rejects_a_single_run_and_a_folder_without_a_run(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run) == 2
    assert "needs at least two runs" in capsys.readouterr().err
    for folders in ([finished_run, tmp_path], [tmp_path / "absent"]):
        assert finetune("compare", *folders) == 2
        assert "no such file" in capsys.readouterr().err
