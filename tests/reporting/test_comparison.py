"""Runs side by side."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from finetune.config.yaml import parse_value
from finetune.reporting.comparison import compare_runs
from tests.support.command_line import finetune


@pytest.fixture
def other(finished_run: Path, tmp_path: Path) -> Path:
    """The same run with another rate and fewer metrics, and without its network."""
    folder = tmp_path / "other"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "final"))
    text = (folder / "config.yaml").read_text()
    assert parse_value(text)["optim"]["lr"] == 0.003
    (folder / "config.yaml").write_text(text.replace("lr: 0.003", "lr: 0.5", 1))
    return folder


def test_only_what_differs_is_shown_beside_the_metrics(
    finished_run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run, other, "-o", tmp_path / "runs.csv") == 0
    said = capsys.readouterr().out
    assert "optim.lr" in said
    assert "optim.warmup_ratio" not in said
    assert "output.dir" not in said
    assert "validation/accuracy" in said
    assert "precision/sport" not in said
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["optim.lr"] for row in rows] == ["0.003", "0.5"]
    assert len({row["validation/accuracy"] for row in rows}) == 1


def test_rates_are_shown_without_the_noise_of_binary_fractions(
    finished_run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("lr: 0.5", f"lr: {3e-5 * 10}", 1))
    assert finetune("compare", finished_run, other) == 0
    said = capsys.readouterr().out
    assert "0.0003 " in said
    assert "0.00030000" not in said


def test_run_that_is_not_finished_is_compared_by_its_config(
    finished_run: Path, other: Path
) -> None:
    (other / "results.json").unlink()
    names, keys, metrics = compare_runs([finished_run, other])
    assert names == ["news", "other"]
    assert keys == {"optim.lr": [0.003, 0.5]}
    assert metrics["step"][1] == "not finished"
    assert metrics["validation/accuracy"][1] == ""


def test_folder_that_is_not_there_is_named(
    finished_run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run, other, "-o", tmp_path / "none" / "runs.csv") == 2
    assert "runs.csv: cannot be written" in capsys.readouterr().err


def test_what_is_no_run_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("compare", finished_run) == 2
    assert "two runs or more" in capsys.readouterr().err
    assert finetune("compare", finished_run, tmp_path) == 2
    assert "there is no such file" in capsys.readouterr().err
