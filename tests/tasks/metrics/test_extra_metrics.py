"""Metrics of task.metrics that libraries compute, for every kind of rows, and in runs."""

from __future__ import annotations

import math
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import finetune
from finetune.errors import ConfigError
from tasks import ObjectDetection, Segmentation
from tasks.metrics.extra_metrics import ExtraMetrics, known_metrics
from tasks.metrics.judged_rows import RowKind, judge, trial_rows
from tasks.metrics.library_metrics import LIBRARY
from tasks.metrics.metric_config import MetricConfig
from tests.support.text_classifiers import set_up
from tests.support.tiny_models import LABELS, answered_rows, text_rows

NAMES = ["a", "b", "c"]
SEVERAL = [
    {**row, "label": [row["label"], LABELS[index % 3]]} for index, row in enumerate(text_rows(24))
]


def extra(kind: RowKind, names: list[str], *entries: dict[str, Any] | str) -> ExtraMetrics:
    keys = [{"name": each} if isinstance(each, str) else each for each in entries]
    return ExtraMetrics([MetricConfig(**each) for each in keys], kind, names)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("single", NAMES),
        ("single", ["no", "yes"]),
        ("several", NAMES),
        ("number", []),
        ("text", []),
    ],
)
def test_every_known_metric_gives_finite_numbers(kind: RowKind, names: list[str]) -> None:
    known = known_metrics(trial_rows(kind, names))
    assert len(known) >= 6
    values = extra(kind, names, *known).compute(trial_rows(kind, names))
    assert all(map(math.isfinite, values.values()))
    assert {name.partition("/")[0] for name in values} == {*known}


@pytest.mark.parametrize("name", LIBRARY)
def test_every_setting_of_the_library_is_known(name: str) -> None:
    metric = LIBRARY[name]
    module, _, function = metric.function.partition(":")
    parameters = list(signature(getattr(import_module(module), function)).parameters)[2:]
    others = {"sample_weight", "axis", "y_pred"}  # of rows; a former name
    assert {*parameters} - others <= {*metric.settings}


def test_metrics_of_several_labels_equal_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 3)), rng.integers(0, 2, (40, 3))
    settings = {"name": "f1", "config": "multilabel", "average": "macro"}
    metrics = extra("several", NAMES, settings, "roc_auc", "accuracy")
    predicted = (scores >= 0.5).astype(int)
    assert metrics.compute(judge("several", NAMES, scores, targets)) == pytest.approx(
        {
            "f1/f1": sklearn_metrics.f1_score(targets, predicted, average="macro"),
            "roc_auc/roc_auc": sklearn_metrics.roc_auc_score(targets, scores),
            "accuracy/accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        }
    )


def test_values_by_label_have_names_where_a_label_is_absent() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.7, 0.1, 0.2]])
    judged = judge("single", NAMES, scores, np.array([0, 2, 2]))
    by_label = extra("single", NAMES, {"name": "f1", "average": None}).compute(judged)
    assert by_label == pytest.approx({"f1/f1/a": 2 / 3, "f1/f1/b": 0, "f1/f1/c": 2 / 3})
    chosen = {"name": "f1", "average": None, "labels": ["c", "a"], "prefix": "some"}
    assert list(extra("single", NAMES, chosen).compute(judged)) == ["some/f1/c", "some/f1/a"]


def test_settings_may_name_a_label() -> None:
    names = ["ham", "spam"]
    judged = judge("single", names, np.eye(2)[[0, 0, 1]], np.array([0, 1, 1]))
    ham = extra("single", names, {"name": "precision", "pos_label": "ham"}).compute(judged)
    assert ham == {"precision/precision": 0.5}


@pytest.mark.parametrize(
    ("kind", "entries", "message"),
    [
        (
            "text",
            ["f1"],
            "f1 is for one label per row or several labels per row; for texts, choose",
        ),
        ("single", ["wer"], "wer is for texts; choose from: accuracy"),
        ("several", ["matthews_correlation"], "is for one label per row; for several labels"),
        ("single", ["brier_score"], "brier_score is for two labels"),
        ("single", ["f1", "f1"], r"f1 occurs 2 times; .*\{name: f1, prefix: f1_2\}"),
        ("single", [{"name": "f1", "config": "multilabel"}], "does not fit one label per row"),
    ],
)
def test_metrics_that_do_not_fit_are_refused_by_name(
    kind: RowKind, entries: list[Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        extra(kind, NAMES, *entries)


@pytest.mark.parametrize("task", [ObjectDetection, Segmentation])
def test_tasks_with_fixed_metrics_refuse_others(task: Any) -> None:
    own = task.Config.measured[0]
    assert task(metrics=own).config.metrics == [own]
    with pytest.raises(ValueError, match=f"f1 is not computed for this task.*{own}"):
        task(metrics=["f1"])


def test_run_selects_by_an_added_metric(bert_folder: Path, tmp_path: Path) -> None:
    metrics = [{"name": "f1", "config": "multilabel", "average": "macro"}, "hamming_loss"]
    keys = {"method": "frozen", "epochs": 2, "validation": SEVERAL[16:], "best": "f1"}
    run = finetune.train(
        {"name": "text-classification", "metrics": metrics},
        data=SEVERAL[:16],
        model=str(bert_folder),
        output=str(tmp_path / "run"),
        **keys,
    )
    measured = run.metrics["validation"]
    assert measured["f1/f1"] == pytest.approx(measured["f1_macro"])
    assert 0 < measured["hamming_loss/hamming_loss"] < 1
    again = finetune.evaluate(tmp_path / "run", SEVERAL[16:], metrics=["precision"])
    assert again["precision/precision"] == pytest.approx(
        np.mean([again[f"precision/{label}"] for label in LABELS])
    )


def test_misspelled_best_is_refused_before_the_network_is_built(
    bert_folder: Path, tmp_path: Path
) -> None:
    keys = {"model": str(bert_folder), "output": str(tmp_path / "run"), "method": "frozen"}
    message = (
        r"train.best: unknown metric 'f1'; did you mean 'f1_macro', 'f1_micro' or 'f1/<label>'"
    )
    with pytest.raises(ConfigError, match=message):
        finetune.train("text-classification", data=text_rows(20), best="f1", **keys)
    assert not (tmp_path / "run").exists()


def test_metric_names_are_those_of_an_evaluation(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, text_rows(9), metrics=["f1"])
    names = task.views.metric_names()
    assert {"accuracy", "f1_macro", "recall/tech", "f1/f1"} <= {*names}


def test_generated_texts_get_the_metrics_that_are_named(gpt2_folder: Path, tmp_path: Path) -> None:
    rows = answered_rows(12)
    task = {"name": "text-generation", "metrics": ["exact_match", "wer"], "max_new_tokens": 3}
    run = finetune.train(
        {**task, "prompt": "{body}", "completion": "{answer}"},
        data=rows[:8],
        validation=rows[8:],
        model=str(gpt2_folder),
        output=str(tmp_path / "run"),
        max_steps=1,
        method="full",
        best="wer",
    )
    measured = run.metrics["validation"]
    assert set(measured) == {"loss", "perplexity", "exact_match/exact_match", "wer/wer"}
