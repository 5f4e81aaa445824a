"""Imbalanced classes: logit adjustment, balanced sampling, support in reports."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.testing import check_task
from finetune.training import run
from tasks import ImageClassification, TextClassification
from tests.support.contract import resolve
from tests.support.lives import Stop, live, load
from tests.support.tiny_models import several_csv, text_rows
from tests.support.tiny_vision import shape_rows, tiny_timm

LABELS = ["rare", "usual"]


def unequal(rows: list[dict[str, Any]], rare: int = 2) -> list[dict[str, Any]]:
    """Relabel rows so that the first `rare` of them are of a rare class."""
    return [row | {"label": LABELS[index >= rare]} for index, row in enumerate(rows)]


def logits() -> Tensor:
    return torch.tensor([[1.0, 0.5], [0.2, 0.1], [-1.0, 2.0]])


def learned(task: Any, model: Path, rows: list[dict[str, Any]]) -> Any:
    table = Dataset.from_list(rows)
    resolve(task, table[:100])
    task.setup(table, ModelConfig(name=str(model)), frozen=False)
    return task


@pytest.mark.parametrize("kind", ["text", "image"])
def test_logit_adjustment_changes_the_loss_but_not_predictions(
    kind: str, bert_folder: Path, tmp_path: Path
) -> None:
    if kind == "text":
        model, rows, make = bert_folder, unequal(text_rows(12)), TextClassification
    else:
        model, rows = tiny_timm(tmp_path / "resnet"), unequal(shape_rows(12))
        make = ImageClassification
    task, plain = learned(make(logit_adjustment=1.5), model, rows), learned(make(), model, rows)
    targets = torch.tensor([0, 1, 1])
    priors = torch.tensor([2 / 12, 10 / 12])
    expected = functional.cross_entropy(logits() + 1.5 * priors.log(), targets, reduction="sum")
    loss = task.loss(logits(), {"targets": targets})["loss"]
    torch.testing.assert_close(loss, expected)
    assert loss > plain.loss(logits(), {"targets": targets})["loss"]
    scores = task.targets_.scores(logits())
    assert torch.equal(scores, plain.targets_.scores(logits()))
    check_task(make(logit_adjustment=1.0), rows, str(model))


def test_log_priors_are_finite_for_a_class_without_rows(bert_folder: Path) -> None:
    keys = {"labels": [*LABELS, "none"], "logit_adjustment": 1.0}
    task = learned(TextClassification(**keys), bert_folder, unequal(text_rows(12)))
    assert task.targets_.state["log_priors"][2] == pytest.approx(math.log(1 / 12))


def test_logit_adjustment_is_rejected_for_regression(bert_folder: Path) -> None:
    rows = [row | {"label": index / 3} for index, row in enumerate(text_rows(12))]
    message = r"task.logit_adjustment: .*kind is number; remove the key"
    with pytest.raises(ConfigError, match=message):
        learned(TextClassification(logit_adjustment=1.0), bert_folder, rows)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_balanced_sampling_draws_classes_equally_and_reports_support(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = as_csv(tmp_path / "news.csv", unequal(text_rows(40), rare=10))
    rows: list[int] = []
    fit = run.fit

    def recording_fit(live: Any, *others: Any) -> None:
        labels = [LABELS.index(row["label"]) for row in live.train.rows]
        steps = range(live.plan.steps_per_epoch)
        rows.extend(labels[row] for step in steps for row in live.plan.rows(step))
        fit(live, *others)

    monkeypatch.setattr(run, "fit", recording_fit)
    keys = {"method": "frozen", "train.sampling": "balanced", "train.epochs": 1}
    folder = live(load(tmp_path / "run", bert_folder, data, keys))
    assert folder is not None
    assert np.bincount(rows).tolist() == [16, 16]
    metrics = folder.read("results.json")["metrics"]["validation"]
    assert (metrics["support/rare"], metrics["support/usual"]) == (2, 6)
    output = capsys.readouterr().out
    note = "16 rows of each of 2 classes per epoch; a row of the rarest class is drawn 2 times"
    assert note in " ".join(output.split())
    assert "support" in output
    assert "| rare |" in (folder.final / "README.md").read_text()


@pytest.mark.parametrize(("rare", "warned"), [(3, True), (12, False)])
def test_a_label_with_most_rows_is_noted_with_a_metric_for_all(
    rare: int, warned: bool, bert_folder: Path
) -> None:
    task = TextClassification()
    rows = unequal(text_rows(30), rare)
    resolve(task, Dataset.from_list(rows)[:100])
    notes = task.setup(Dataset.from_list(rows), ModelConfig(name=str(bert_folder)), frozen=True)
    hits = [note for note in notes if "train.best=f1_macro" in note]
    assert len(hits) == warned
    assert not warned or "'usual' has 90% of the training rows" in hits[0]


def test_balanced_sampling_is_rejected_without_one_class_a_row(
    bert_folder: Path, tmp_path: Path
) -> None:
    keys = {"task.kind": "several", "train.sampling": "balanced"}
    loaded = load(tmp_path / "run", bert_folder, several_csv(tmp_path / "several.csv"), keys)
    with pytest.raises(ConfigError, match=r"train.sampling=balanced: .* exactly one class"):
        live(loaded, stop=Stop(0))
