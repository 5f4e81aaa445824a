"""Labels of text classification: their order, and class weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from pydantic import ValidationError

from finetune.errors import ConfigError
from finetune.task_parts.samples import Row
from tasks import TextClassification
from tests.support.text_classifiers import NUMBER, labeled, set_up


def label_names(model: Path, rows: list[Row] | Dataset, **keys: Any) -> list[str]:
    """Return the labels in the order of the task, which the network shares."""
    task, built = set_up(model, rows, **keys)
    names: dict[int, str] = built.network.config.id2label
    assert [names[index] for index in range(len(names))] == task.targets_.names
    return task.targets_.names


def test_labels_are_sorted_unless_configured(bert_folder: Path) -> None:
    rows = labeled("positive", "negative", "positive", "negative")
    assert label_names(bert_folder, rows) == ["negative", "positive"]
    labels = ["positive", "neutral", "negative"]
    assert label_names(bert_folder, rows, labels=labels) == labels


def test_integer_labels_are_sorted_by_value(bert_folder: Path) -> None:
    assert label_names(bert_folder, labeled(10, 9, -1, 10)) == ["-1", "9", "10"]


def test_class_labels_of_a_dataset_keep_their_order(bert_folder: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "maybe", "a"])})
    rows = Dataset.from_list(labeled(0, 2, 1, 0), features=features)
    task, _ = set_up(bert_folder, rows)
    assert task.targets_.names == ["no", "maybe", "a"]
    assert [task.rows.labels(row) for row in rows] == [("no",), ("a",), ("maybe",), ("no",)]
    names = ClassLabel(names=["z", "b", "a"])
    features = Features({"text": Value("string"), "label": Sequence(names)})
    rows = Dataset.from_list(labeled([0], [2, 0], [], [1]), features=features)
    task, _ = set_up(bert_folder, rows)
    assert task.targets_.names == ["z", "b", "a"]
    assert [task.rows.labels(row) for row in rows] == [("z",), ("a", "z"), (), ("b",)]
    assert task.targets_.target([2, 0]) == [1.0, 0.0, 1.0]


def test_balanced_class_weights_are_inverse_to_the_frequency(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, labeled("a", "a", "a", "b"), class_weights="balanced")
    assert task.targets_.state["weights"] == pytest.approx([4 / 6, 4 / 2])
    assert float(task.collate([task.encode(r) for r in labeled("a", "b")])["count"]["loss"]) == (
        pytest.approx(4 / 6 + 4 / 2)
    )


def test_class_weights_reject_other_labels(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.class_weights: unknown label 'c'"):
        set_up(bert_folder, labeled("a", "b"), class_weights={"a": 1, "c": 2})
    with pytest.raises(ConfigError, match=r"task.class_weights: no weight for 'b'; add {b: 1}"):
        set_up(bert_folder, labeled("a", "b"), class_weights={"a": 1})
    with pytest.raises(ConfigError, match=r"task.class_weights.*number"):
        set_up(bert_folder, NUMBER, class_weights="balanced")


@pytest.mark.parametrize("weight", [-2, 0, float("nan"), float("inf")])
def test_class_weights_reject_values_that_are_not_positive_and_finite(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"class_weights.*\n.*(finite|greater)"):
        TextClassification(class_weights={"a": 1, "b": weight})
