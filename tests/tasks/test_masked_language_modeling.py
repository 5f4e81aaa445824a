"""Masked language modeling: the contract, whole runs, and the runs that begin with their models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline

import finetune
from finetune.errors import ModelError
from finetune.testing import check_task
from tasks import MaskedLanguageModeling
from tests.support.command_line import finetune as command
from tests.support.lives import Stop, left_behind, live, load
from tests.support.tiny_models import text_rows

ROWS = [{"text": row["text"]} for row in text_rows(8)]


def train(folder: Path, model: Path, rows: list[dict[str, Any]], **keys: Any) -> Any:
    settings: dict[str, Any] = {"method": "full", "epochs": 2, "lr": 3e-3, "batch_size": 8}
    settings |= {"data.validation": 0.2, "precision": "fp32", "output": str(folder)}
    return finetune.train(
        "masked-language-modeling", data=rows, model=str(model), **settings | keys
    )


@pytest.fixture(scope="module")
def adapted(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on 40 texts, the longer ones in pieces."""
    folder = tmp_path_factory.mktemp("runs") / "adapted"
    return train(folder, bert_folder, text_rows(40), max_length=16)


@pytest.mark.parametrize("keys", [{}, {"max_length": 12}, {"whole_words": False}], ids=str)
def test_masked_language_modeling_keeps_the_task_contract(
    keys: dict[str, Any], bert_folder: Path
) -> None:
    check_task(MaskedLanguageModeling(**keys), ROWS, str(bert_folder))


@pytest.mark.parametrize("network", ["gpt2_folder", "bart_folder", "t5_folder"])
def test_networks_that_do_not_fill_masks_are_refused(
    network: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(network)
    with pytest.raises(ModelError, match="task=text-generation task.text=COLUMN"):
        check_task(MaskedLanguageModeling(), ROWS, str(folder))


def test_masks_differ_by_epoch_and_row_but_not_by_batch(bert_folder: Path) -> None:
    from datasets import Dataset

    from finetune.batching.data_loader import encoding_rng
    from finetune.config.schema import ModelConfig

    task = MaskedLanguageModeling()
    task.setup(Dataset.from_list(ROWS), ModelConfig(name=str(bert_folder)), frozen=False)
    row = {"text": " ".join(each["text"] for each in ROWS)}
    draws = [
        task.encode(row, encoding_rng(0, epoch, index))["positions"]
        for epoch, index in ((0, 5), (1, 5), (0, 6), (0, 5))
    ]
    assert draws[0] == draws[3]
    assert len({tuple(draw) for draw in draws}) == 3
    assert task.encode(row) == task.encode(dict(row)), "held-out masks are fixed"


def test_final_model_loads_as_masked_lm_and_in_the_pipeline(adapted: Any) -> None:
    folder = adapted.path / "final"
    network, tokenizer = (
        each.from_pretrained(folder) for each in (AutoModelForMaskedLM, AutoTokenizer)
    )
    ids = tokenizer("the [MASK] market", return_tensors="pt")
    place = int((ids["input_ids"][0] == tokenizer.mask_token_id).nonzero())
    with torch.inference_mode():
        expected = network(**ids).logits[0, place].softmax(0).max()
    (ours,) = finetune.load(adapted.path)(["the [MASK] market"])
    theirs = pipeline("fill-mask", str(folder))("the [MASK] market")
    assert ours[0]["score"] == pytest.approx(float(expected), rel=1e-5)
    assert [each["token"] for each in ours] == [each["token"] for each in theirs]
    assert {"perplexity", "accuracy", "loss"} <= {*adapted.metrics["validation"]}


def test_held_out_masks_are_written_with_what_was_predicted(adapted: Any) -> None:
    lines = (adapted.path / "reports/validation/masks.md").read_text().splitlines()
    assert lines[0] == "| row | read | was | predicted |"
    assert len(lines) > 4
    for line in lines[2:]:
        read, was, predicted = line.split(" | ")[1:]
        assert len(was.split()) == len(predicted.removesuffix(" |").split()) >= 1, read


def test_next_run_and_embed_begin_with_the_adapted_backbone(
    adapted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"method": "frozen", "epochs": 1, "output": str(tmp_path / "next")}
    run = finetune.train("text-classification", data=text_rows(30), model=str(adapted.path), **keys)
    trained = load_file(adapted.path / "final/model.safetensors")
    kept = load_file(run.path / "final/model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(kept[name], trained[f"bert.{name}"])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ("embed", adapted.path, tmp_path / "rows.jsonl", "-o", tmp_path / "vectors.parquet")
    assert command(*words) == 0, capsys.readouterr().err


def test_checkpoint_without_a_head_gets_a_new_one_tied_to_the_embeddings(
    bert_folder: Path, tmp_path: Path
) -> None:
    bare = AutoModel.from_pretrained(bert_folder, add_pooling_layer=False)
    for part in (bare, AutoTokenizer.from_pretrained(bert_folder)):
        part.save_pretrained(tmp_path / "bare")
    rows = text_rows(20)
    run = train(tmp_path / "run", tmp_path / "bare", rows, method="frozen", epochs=1)
    network = AutoModelForMaskedLM.from_pretrained(run.path / "final")
    tables = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    assert torch.equal(tables[0], tables[1])
    before = bare.get_input_embeddings().weight
    assert torch.equal(tables[0], before), "the tied layer is frozen with the backbone"


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "partial"])
def test_resume_is_bit_for_bit(
    method: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {"method": method, "task": {"name": "masked-language-modeling", "max_length": 24}}
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    assert live(loaded, stop=Stop(2)) is None
    resumed = live(loaded)
    assert unstopped is not None
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)


def test_rows_with_mask_tokens_are_not_trained_on(bert_folder: Path) -> None:
    from datasets import Dataset

    from finetune.config.schema import ModelConfig

    task = MaskedLanguageModeling()
    task.setup(Dataset.from_list(ROWS), ModelConfig(name=str(bert_folder)), frozen=False)
    rows = [{"text": "the [MASK] market"}, {"text": "the new market"}]
    assert [length.used > 0 for length in task.lengths(rows)] == [False, True]
    assert [length.used > 0 for length in task.lengths(rows, predicting=True)] == [True, True]
    sample = task.encode(rows[0])
    assert "target" not in sample
    ids = np.array(sample["inputs"]["input_ids"])
    assert sample["positions"] == np.flatnonzero(ids == task.tokenizer_.mask_token_id).tolist()


def test_init_leaves_the_task_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert command("init", "texts.jsonl") == 0
    assert "masked" not in capsys.readouterr().out
    asked = ("init", "texts.jsonl", "task=masked-language-modeling", "-o", "mlm.yaml")
    assert command(*asked) == 0
    assert "name: masked-language-modeling" in Path("mlm.yaml").read_text()
