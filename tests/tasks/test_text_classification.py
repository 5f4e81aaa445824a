"""The text-classification task: its contract, and whole runs up to the final model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import finetune
from finetune.errors import DataError
from finetune.task_parts.samples import Row
from finetune.testing import check_task
from tasks import TextClassification
from tests.support.text_classifiers import (
    CLOSE,
    COLUMNS,
    INTEGERS,
    LISTS_AS_TEXT,
    NUMBER,
    PAIR,
    SEVERAL,
    SEVERAL_AS_TEXT,
    SINGLE,
    TITLED,
    set_up,
)
from tests.support.tiny_models import LABELS, text_rows


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(SINGLE, {}, id="single"),
        pytest.param(
            SINGLE, {"class_weights": "balanced", "label_smoothing": 0.1}, id="weighted-and-smooth"
        ),
        pytest.param(SEVERAL, {}, id="several"),
        pytest.param(SEVERAL_AS_TEXT, {"kind": "several"}, id="several-in-a-text"),
        pytest.param(NUMBER, {}, id="number"),
        pytest.param(PAIR, {"text": ["first", "second"]}, id="pair"),
    ],
)
def test_text_classification_keeps_the_task_contract(
    head: str,
    network: str,
    rows: list[Row],
    keys: dict[str, Any],
    bert_folder: Path,
    gpt2_folder: Path,
) -> None:
    model = bert_folder if network == "bert" else gpt2_folder
    check_task(TextClassification(head=head, **keys), rows, str(model))


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(COLUMNS, {"label": ["business", "sport", "tech"]}, id="columns"),
        pytest.param(
            COLUMNS, {"label": ["business", "sport", "tech"], "kind": "single"}, id="exclusive"
        ),
        pytest.param(INTEGERS, {}, id="integers"),
        pytest.param(INTEGERS, {"labels": {0: "no", 1: "yes"}}, id="names-of-values"),
        pytest.param(TITLED, {"text": ["title", "body"], "join": " "}, id="joined"),
        pytest.param(LISTS_AS_TEXT, {"labels": LABELS}, id="zeros-and-ones-as-text"),
    ],
)
def test_label_forms_keep_the_task_contract(
    rows: list[Row], keys: dict[str, Any], bert_folder: Path
) -> None:
    check_task(TextClassification(**keys), rows, str(bert_folder))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_keeps_the_task_contract(pooling: str, bert_folder: Path) -> None:
    check_task(TextClassification(pooling=pooling), SINGLE, str(bert_folder))


def test_train_rejects_validation_labels_that_are_not_in_train(
    bert_folder: Path, tmp_path: Path
) -> None:
    splits = {"train": SINGLE, "validation": [{"text": "a poem", "label": "poetry"}]}
    with pytest.raises(DataError, match="validation: 1 of 1 rows .*'poetry'.*task.labels"):
        finetune.train(
            "text-classification", data=splits, model=str(bert_folder), output=str(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


# ---- final models


def train(model: Path, data: Any, folder: Path, **keys: Any) -> finetune.Run:
    return finetune.train(
        "text-classification", data=data, model=str(model), output=str(folder), epochs=2, **keys
    )


@pytest.fixture(scope="module")
def full_run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    return train(bert_folder, news_csv, tmp_path_factory.mktemp("full") / "run", method="full")


@pytest.fixture(scope="module")
def lora_run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    return train(bert_folder, news_csv, tmp_path_factory.mktemp("lora") / "run", method="lora")


def pipeline_predictions(folder: Path, rows: list[Row]) -> list[dict[str, Any]]:
    predictions: list[dict[str, Any]] = pipeline("text-classification", model=str(folder))(
        [row["text"] for row in rows]
    )
    return predictions


def logits(network: Any, folder: Path, rows: list[Row]) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        outputs: Tensor = network.eval()(**inputs).logits
    return outputs


def test_final_model_matches_the_pipeline_of_transformers(full_run: finetune.Run) -> None:
    rows = text_rows(12, seed=1)
    ours, theirs = full_run.predict(rows), pipeline_predictions(full_run.path / "final", rows)
    assert {row["label"] for row in ours} <= set(LABELS)
    assert len({row["label"] for row in ours}) > 1, "a constant prediction proves little"
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    assert [row["score"] for row in ours] == pytest.approx(
        [row["score"] for row in theirs], abs=CLOSE
    )


def test_final_model_in_transformers_has_its_labels(full_run: finetune.Run) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(full_run.path / "final")
    assert network.config.id2label == dict(enumerate(LABELS))
    assert network.config.label2id == {name: index for index, name in enumerate(LABELS)}
    assert network.config.problem_type == "single_label_classification"


def test_lora_adapter_in_peft_matches_the_merged_model(lora_run: finetune.Run) -> None:
    rows, final = text_rows(12, seed=1), lora_run.path / "final"
    merged = AutoModelForSequenceClassification.from_pretrained(final)
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(
        final / "adapter", num_labels=len(LABELS)
    )
    assert not any("lora" in name for name in merged.state_dict())
    assert any("lora" in name for name in adapted.state_dict())
    one, other = logits(merged, final, rows), logits(adapted, final, rows)
    assert (one - other).abs().max() <= CLOSE * one.abs().max()
    ours = [row["label"] for row in lora_run.predict(rows)]
    assert ours == [LABELS[index] for index in one.argmax(1).tolist()]


@pytest.mark.parametrize("method", ["full", "lora", "frozen"])
def test_regression_predicts_in_the_unit_of_the_targets(
    method: str, bert_folder: Path, tmp_path: Path
) -> None:
    rows = [{"text": row["text"], "price": 5e5 + 1e4 * i} for i, row in enumerate(text_rows(20))]
    folder = tmp_path / "run"
    keys = {"kind": "number", "head": "native"}
    run = train(bert_folder, rows, folder, method=method, **keys)
    prices = [prediction["score"] for prediction in run.predict(rows)]
    assert all(4e5 < price < 8e5 for price in prices)
    network = AutoModelForSequenceClassification.from_pretrained(folder / "final")
    assert network.config.problem_type == "regression"
    assert logits(network, folder / "final", rows)[:, 0].tolist() == pytest.approx(
        prices, rel=CLOSE
    )
    assert run.metrics["validation"]["rmse"] < 5e5


# ---- several labels


def test_threshold_selects_several_labels_by_score(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, SEVERAL, threshold=0.4)
    predictions = task.targets_.predictions(torch.tensor([[0.4, 0.1, 0.9], [0.1, 0.2, 0.3]]))
    assert [prediction["label"] for prediction in predictions] == [[LABELS[2], LABELS[0]], []]
    assert predictions[0]["score"] == pytest.approx([0.9, 0.4])


def test_load_overrides_threshold_and_scores(bert_folder: Path, tmp_path: Path) -> None:
    run = train(bert_folder, SEVERAL * 4, tmp_path / "run", method="lora")
    row = {"text": SEVERAL[0]["text"]}
    assert finetune.load(run.path, threshold=0.999)([row])[0]["label"] == []
    prediction = finetune.load(run.path, threshold=0.001, scores="all")([row])[0]
    assert sorted(prediction["label"]) == sorted(LABELS)
    assert {f"score/{name}": prediction[f"score/{name}"] for name in LABELS} == {
        f"score/{name}": score
        for name, score in zip(prediction["label"], prediction["score"], strict=True)
    }
