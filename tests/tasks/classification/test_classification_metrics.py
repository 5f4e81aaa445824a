"""Metrics compared with cases computed by hand and, where it defines them, with scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from finetune.config.best_metric import best_faults
from tasks import TextClassification
from tasks.classification.classification_metrics import (
    classification_metrics,
    confusion_matrix,
    multilabel_metrics,
    regression_metrics,
)
from tasks.classification.label_config import TargetConfig
from tasks.classification.targets import SingleLabel
from tasks.metrics.judged_rows import trial_rows


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_scores(rows: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities with ties, and targets that are correlated with them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    logits = rng.integers(0, 4, (rows, classes)) + 2.0 * np.eye(classes)[targets]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), targets


def names(classes: int) -> list[str]:
    return [f"c{index}" for index in range(classes)]


# ---- one label per row


def test_classification_metrics_match_a_case_computed_by_hand() -> None:
    # true 0 0 1 1, predicted 0 1 1 1: two of the three predictions of class 1 are correct
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    metrics = classification_metrics(scores, np.array([0, 0, 1, 1]), ["no", "yes"])
    assert metrics == pytest.approx(
        {
            "accuracy": 3 / 4,
            "matthews": 1 / math.sqrt(3),
            "roc_auc": 1.0,
            "f1_macro": (2 / 3 + 4 / 5) / 2,
            "f1_micro": 3 / 4,
            "precision/no": 1.0,
            "precision/yes": 2 / 3,
            "recall/no": 1 / 2,
            "recall/yes": 1.0,
            "f1/no": 2 / 3,
            "f1/yes": 4 / 5,
            "support/no": 2.0,
            "support/yes": 2.0,
        }
    )


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_classification_metrics_equal_sklearn(classes: int) -> None:
    scores, targets = random_scores(300, classes, seed=classes)
    predicted = scores.argmax(axis=1)
    ranked = scores[:, 1] if classes == 2 else scores
    metrics = classification_metrics(scores, targets, names(classes))
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        "matthews": sklearn_metrics.matthews_corrcoef(targets, predicted),
        "roc_auc": sklearn_metrics.roc_auc_score(targets, ranked, multi_class="ovr"),
        "f1_macro": sklearn_metrics.f1_score(targets, predicted, average="macro"),
        "f1_micro": sklearn_metrics.f1_score(targets, predicted, average="micro"),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_classification_metrics_per_class_equal_sklearn() -> None:
    scores, targets = random_scores(200, 5, seed=0)
    metrics = classification_metrics(scores, targets, names(5))
    expected = sklearn_metrics.classification_report(
        targets, scores.argmax(axis=1), target_names=names(5), output_dict=True
    )
    for name in names(5):
        assert metrics[f"precision/{name}"] == pytest.approx(expected[name]["precision"])
        assert metrics[f"recall/{name}"] == pytest.approx(expected[name]["recall"])
        assert metrics[f"f1/{name}"] == pytest.approx(expected[name]["f1-score"])
        assert metrics[f"support/{name}"] == expected[name]["support"]


def test_classification_metrics_macro_f1_skips_absent_classes() -> None:
    scores, targets = random_scores(60, 3, seed=1)
    wide = np.pad(scores, ((0, 0), (0, 4)))
    expected = sklearn_metrics.f1_score(targets, scores.argmax(axis=1), average="macro")
    assert classification_metrics(wide, targets, names(7))["f1_macro"] == pytest.approx(expected)


def test_classification_metrics_macro_f1_counts_a_class_that_is_only_predicted() -> None:
    scores = np.eye(3)[[0, 1, 2]]
    metrics = classification_metrics(scores, np.array([0, 1, 1]), names(3))
    assert metrics["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_classification_metrics_roc_auc_averages_over_classes_that_occur() -> None:
    scores, targets = random_scores(80, 4, seed=2)
    kept = targets < 2
    scores, targets = scores[kept], targets[kept]
    expected = np.mean([sklearn_metrics.roc_auc_score(targets == c, scores[:, c]) for c in (0, 1)])
    metrics = classification_metrics(scores, targets, names(4))
    assert metrics["roc_auc"] == pytest.approx(expected)


def test_classification_metrics_are_zero_for_an_absent_class() -> None:
    metrics = classification_metrics(np.eye(3)[[0, 1]], np.array([0, 1]), names(3))
    assert [metrics[f"{key}/c2"] for key in ("precision", "recall", "f1", "support")] == [0] * 4


@pytest.mark.parametrize("predicted", [0, 1])
def test_classification_metrics_omit_roc_auc_of_a_single_class(predicted: int) -> None:
    metrics = classification_metrics(np.eye(2)[[predicted] * 5], np.zeros(5, int), names(2))
    assert "roc_auc" not in metrics
    assert metrics["matthews"] == 0
    assert metrics["accuracy"] == 1 - predicted


# ---- several labels per row


def test_multilabel_metrics_match_a_case_computed_by_hand() -> None:
    scores = np.array([[0.9, 0.2], [0.6, 0.5], [0.1, 0.4]])
    targets = np.array([[1, 0], [0, 1], [0, 1]])
    metrics = multilabel_metrics(scores, targets, ["a", "b"], threshold=0.5)
    assert metrics == pytest.approx(
        {
            "subset_accuracy": 1 / 3,
            "roc_auc": 1.0,
            "f1_macro": 2 / 3,
            "f1_micro": 2 / 3,
            "precision/a": 1 / 2,
            "precision/b": 1.0,
            "recall/a": 1.0,
            "recall/b": 1 / 2,
            "f1/a": 2 / 3,
            "f1/b": 2 / 3,
            "support/a": 1.0,
            "support/b": 2.0,
        }
    )


def test_multilabel_metrics_equal_sklearn() -> None:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, (100, 4))
    scores = np.round(0.3 * targets + 0.7 * rng.random((100, 4)), 1)
    predicted = (scores >= 0.4).astype(int)
    metrics = multilabel_metrics(scores, targets, names(4), threshold=0.4)
    expected = {
        "subset_accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        "roc_auc": sklearn_metrics.roc_auc_score(targets, scores),
        "f1_macro": sklearn_metrics.f1_score(targets, predicted, average="macro"),
        "f1_micro": sklearn_metrics.f1_score(targets, predicted, average="micro"),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)


def test_multilabel_metrics_roc_auc_skips_constant_labels() -> None:
    scores = np.array([[0.9, 0.2], [0.1, 0.5]])
    metrics = multilabel_metrics(scores, np.array([[1, 1], [0, 1]]), names(2), threshold=0.5)
    assert metrics["roc_auc"] == 1.0


def test_multilabel_metrics_accept_a_single_label() -> None:
    scores, targets = np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [0]])
    metrics = multilabel_metrics(scores, targets, ["only"], threshold=0.5)
    assert (metrics["precision/only"], metrics["support/only"]) == (0.5, 1.0)


def test_multilabel_metrics_are_zero_without_any_label() -> None:
    metrics = multilabel_metrics(np.zeros((3, 2)), np.zeros((3, 2)), names(2), threshold=0.5)
    assert metrics["subset_accuracy"] == 1
    assert metrics["f1_macro"] == metrics["f1_micro"] == 0
    assert "roc_auc" not in metrics


# ---- numbers


def test_regression_metrics_match_a_case_computed_by_hand() -> None:
    metrics = regression_metrics(np.array([1.0, 2.0, 9.0]), np.array([1.0, 3.0, 5.0]))
    assert metrics == pytest.approx(
        {
            "rmse": math.sqrt(17 / 3),
            "mae": 5 / 3,
            "r2": 1 - 17 / 8,
            "pearson": 16 / math.sqrt(8 * 38),
            "spearman": 1.0,
        }
    )


def test_regression_metrics_omit_correlations_of_constant_values() -> None:
    metrics = regression_metrics(np.full(3, 0.1), np.array([1.0, 2.0, 3.0]))
    assert set(metrics) == {"rmse", "mae", "r2"}


@pytest.mark.parametrize("targets", [[0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
def test_regression_metrics_of_constant_targets_are_errors_only(targets: list[float]) -> None:
    metrics = regression_metrics(np.array([1.0, 2.0, 3.0]), np.array(targets))
    assert set(metrics) == {"rmse", "mae"}


def test_regression_metrics_of_one_row_are_finite() -> None:
    assert regression_metrics(np.array([2.0]), np.array([5.0])) == {"rmse": 3.0, "mae": 3.0}


# ---- confusion matrix


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    matrix = confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), classes=3)
    assert matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_every_metric_is_one_that_a_config_may_name() -> None:
    names = ["a", "b", "c", "d", "e", "f"]  # enough for top5_accuracy
    scores = np.random.default_rng(0).random((12, 6))
    classes = np.arange(12) % 6
    measured = {
        **classification_metrics(scores, classes, names),
        **multilabel_metrics(scores, np.eye(6)[classes], names, 0.5),
        **regression_metrics(scores[:, 0], np.arange(12.0)),
    }
    assert len(measured) > 10
    for name in measured:
        assert not list(best_faults(name, TargetConfig.metric_names)), name


def test_metric_names_of_many_labels_are_those_of_all_labels() -> None:
    names = [f"label {n}" for n in range(60)]
    task = TextClassification(text="text", label="label", kind="single")
    task.targets_ = SingleLabel(task.resolved_, {"names": names, "weights": None})
    rows = trial_rows("single", names)
    stats = {"scores": torch.tensor(rows.scores), "target": torch.tensor(rows.targets)}
    assert set(task.metric_names()) == set(task.summarize(stats))
