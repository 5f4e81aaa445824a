"""Progress of a run: selection of the best checkpoint and early stopping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.errors import ConfigError
from finetune.training.state import Progress


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0.5, 1.0), (0.7, 1.2), (0.6, 0.1)], 1),
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95)], 1),  # ties broken by lower loss
        ([(0.5, 1.0), (0.5, 1.0)], 0),
        ([(math.nan, 1.0), (0.5, 1.0), (math.nan, 0.1)], 1),
        ([(0.5, 1.0), (0.5, math.nan), (0.6, math.nan)], 2),
    ],
)
def test_progress_keeps_the_best_evaluation(
    evaluations: list[tuple[float, float]], best: int
) -> None:
    progress = Progress()
    for step, (value, loss) in enumerate(evaluations):
        progress.step = step
        assert progress.note_evaluation(value, loss, None) == (progress.best_step == step)
    assert progress.best_step == best
    assert not progress.stopped


def test_progress_counts_patience_from_the_best_evaluation() -> None:
    progress = Progress()
    evaluations = [(0.5, 1.0), (0.4, 1.0), (0.6, 1.0), (0.6, 1.0)]
    for value, loss in evaluations:
        progress.note_evaluation(value, loss, 2)
        assert not progress.stopped
    progress.note_evaluation(0.1, 0.1, 2)
    assert progress.stopped


def test_early_stopping_ends_a_run_that_does_not_improve(
    bert_folder: Path, news_csv: Path, held_csv: Path, tmp_path: Path
) -> None:
    run = finetune.train(
        "text-classification",
        data={"train": news_csv, "validation": held_csv},
        model=str(bert_folder),
        method="full",
        lr=0,
        head_lr=0,
        epochs=9,
        early_stopping=2,
        output=str(tmp_path / "run"),
    )
    steps = [line["step"] for line in run.folder.history() if line["split"] == "validation"]
    epoch = steps[1]
    assert steps == [0, epoch, 2 * epoch, 3 * epoch]
    assert run.folder.read("results.json")["step"] == epoch


SHORT: dict[str, Any] = {"method": "full", "max_steps": 1, "batch_size": 4}


def test_a_run_shorter_than_its_evaluation_has_no_baseline(
    bert_folder: Path,
    news_csv: Path,
    held_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = {"train": news_csv, "validation": held_csv}
    output, model = str(tmp_path / "run"), str(bert_folder)
    run = finetune.train("text-classification", data=data, model=model, output=output, **SHORT)
    steps = [line["step"] for line in run.folder.history() if line["split"] == "validation"]
    assert steps == [1]
    assert "validation: not evaluated, since it has 30 rows and this run trains on 4" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_misspelled_metric_fails_before_a_short_run_trains(
    bert_folder: Path, news_csv: Path, held_csv: Path, tmp_path: Path
) -> None:
    data = {"train": news_csv, "validation": held_csv}
    keys = {"best": "+acuracy", "output": str(tmp_path / "run"), "model": str(bert_folder)}
    with pytest.raises(ConfigError, match="acuracy"):
        finetune.train("text-classification", data=data, **keys, **SHORT)
    assert not (tmp_path / "run" / "checkpoints").exists()
