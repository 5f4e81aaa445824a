"""Groups of rows, the metrics of the worst one, and the weights of group DRO."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import finetune
from finetune.config.best_metric import direction_of, selected_metric
from finetune.errors import ConfigError, DataError
from finetune.robustness.group_dro import GroupDro
from finetune.robustness.row_groups import RowGroups, worst_group_metrics
from finetune.training.state import Progress
from tests.support.tiny_models import text_rows


def grouped(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rows = text_rows(count, seed)
    return [{**row, "source": "web" if index % 5 else "print"} for index, row in enumerate(rows)]


def test_worst_group_metrics_leave_small_groups_out() -> None:
    by_group = {
        "a": {"rows": 40.0, "accuracy": 0.9, "loss": 0.2},
        "b": {"rows": 10.0, "accuracy": 0.6, "loss": 0.7},
        "c": {"rows": 9.0, "accuracy": 0.0, "loss": 9.0},
    }
    worst = worst_group_metrics(by_group, {"accuracy": "max", "loss": "min"})
    assert worst == {"worst_group_accuracy": 0.6, "worst_group_loss": 0.7}
    small = RowGroups(["a", "c"], np.array([0] * 10 + [1] * 9))
    assert "1 group of fewer than 10 rows" in small.too_small("test")


def test_best_metric_may_be_that_of_the_worst_group() -> None:
    known = ["accuracy", "f1_macro"]
    for best in ("worst_group_f1_macro", "+worst_group_f1_macro"):
        assert selected_metric(best, ("accuracy", "max"), known) == ("worst_group_f1_macro", "max")
    assert direction_of("worst_group_loss") == "min"
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        selected_metric("worst_group_acuracy", ("accuracy", "max"), known)


def test_group_dro_moves_weight_to_the_worst_group() -> None:
    progress, accelerator = Progress(), Accelerator(cpu=True)
    dro = GroupDro(progress, 3, 0.5, accelerator)
    for _ in range(4):
        dro.begin()
        for group, loss in enumerate((0.1, 2.0, 0.5)):
            dro.add(group, torch.tensor(loss / 2))
            dro.add(group, torch.tensor(loss / 2))
        dro.update()
    expected = np.exp(0.5 * 4 * np.array([0.1, 2.0, 0.5]))
    assert dro.weights.numpy() == pytest.approx(expected / expected.sum(), rel=1e-5)
    dro.store()
    again = GroupDro(progress, 3, 0.5, accelerator)
    assert torch.equal(again.weights, dro.weights)


def test_group_dro_survives_an_infinite_loss() -> None:
    dro = GroupDro(SimpleNamespace(group_weights=[]), 2, 0.1, Accelerator(cpu=True))
    dro.add(0, torch.tensor(float("inf")))
    dro.update()
    assert dro.weights.tolist() == pytest.approx([0.5, 0.5])


def test_run_measures_and_selects_by_the_worst_group(bert_folder: Path, tmp_path: Path) -> None:
    run = finetune.train(
        "text-classification",
        data={"train": grouped(40), "validation": grouped(120, 1)},
        model=str(bert_folder),
        method={"name": "frozen", "solver": "exact"},
        group_by="source",
        sampling="balanced",
        best="worst_group_accuracy",
        output=str(tmp_path / "run"),
    )
    groups = run.folder.read("results.json")["row_groups"]["validation"]
    assert len(groups) == 6
    counted = [group["accuracy"] for group in groups.values() if group["rows"] >= 10]
    assert run.metrics["validation"]["worst_group_accuracy"] == min(counted)
    whole = sum(group["accuracy"] * group["rows"] for group in groups.values()) / 120
    assert run.metrics["validation"]["accuracy"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"group_dro": 0.01}, r"train.group_dro=0.01: needs groups of rows"),
        ({"best": "worst_group_accuracy"}, r"train.best=worst_group_accuracy: needs groups"),
        (
            {
                "group_by": "source",
                "group_dro": 0.1,
                "method": {"name": "frozen", "solver": "exact"},
            },
            r"train.group_dro=0.1: no effect with method.solver=exact",
        ),
        ({"group_by": "sorce"}, r"train.group_by=sorce: no such column; did you mean 'source'"),
    ],
)
def test_run_refuses_groups_without_a_meaning(
    keys: dict[str, Any], words: str, bert_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        finetune.train(
            "text-classification",
            data=grouped(20),
            model=str(bert_folder),
            output=str(tmp_path / "run"),
            **keys,
        )
