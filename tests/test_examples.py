"""The examples run and do what they claim."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

import finetune
from finetune.errors import DataError
from finetune.registry import find_task
from finetune.testing import check_task
from tests.support.tiny_models import TOPICS, text_rows

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SURGICAL = "examples/surgical.py:Surgical"
TAGGING = "examples/token_tagging.py:TokenTagging"


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # paths of examples are relative to it


def tagged_rows(count: int) -> list[dict[str, list[str]]]:
    """Make sentences in which every word of a topic is tagged with the topic."""
    topics = {word: topic for topic, words in TOPICS.items() for word in words}
    sentences = [row["text"].split() for row in text_rows(count)]
    return [{"words": ws, "tags": [topics.get(word, "O") for word in ws]} for ws in sentences]


def test_examples_import_and_are_short() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        runpy.run_path(str(path))
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path.name


def test_token_tagging_passes_check_task(bert_folder: Path) -> None:
    check_task(find_task(TAGGING)(), tagged_rows(6), str(bert_folder))


def test_token_tagging_trains_reloads_and_predicts(bert_folder: Path, tmp_path: Path) -> None:
    rows, data = tagged_rows(40), tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = str(tmp_path / "run")
    keys = {"model": str(bert_folder), "method": "full", "epochs": 20, "batch_size": 8}
    run = finetune.train(TAGGING, data=str(data), output=folder, lr=3e-3, head_lr=3e-3, **keys)
    history = run.history().query("split == 'validation'")["accuracy"].tolist()
    assert history[0] < 0.7 < history[-1], "accuracy did not improve"
    predictions = finetune.load(run.path)([{"words": row["words"]} for row in rows])
    assert [len(each["tags"]) for each in predictions] == [len(row["words"]) for row in rows]
    tags = {tag for each in predictions for tag in each["tags"]}
    assert tags <= {*TOPICS, "O"}
    assert len(tags) > 1
    assert run.predict([rows[0]]) == predictions[:1]


def test_token_tagging_reports_invalid_rows(bert_folder: Path, tmp_path: Path) -> None:
    rows = [*tagged_rows(8), {"words": ["a", "goal"], "tags": ["O"]}, {"words": [], "tags": []}]
    keys = {"model": str(bert_folder), "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=r"2 words, but 1 tags[\s\S]*words is empty"):
        finetune.train(TAGGING, data=rows, **keys)
    with pytest.raises(DataError, match=r"task.tags: there is no column 'tags'.*tag"):
        finetune.train(TAGGING, data=[{"words": ["a"], "tag": ["O"]}] * 8, **keys)


def test_surgical_trains_only_the_selected_blocks(bert_folder: Path, tmp_path: Path) -> None:
    keys = {"method": SURGICAL, "method.blocks": [1, -1], "epochs": 1, "lr": 1e-2}
    run = finetune.train(
        "text-classification",
        data=text_rows(40),
        model=str(bert_folder),
        output=str(tmp_path / "run"),
        head="native",
        **keys,
    )
    before = BertForSequenceClassification.from_pretrained(bert_folder).state_dict()
    after = BertForSequenceClassification.from_pretrained(run.path / "final").state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    layers = {name.split(".")[3] for name in changed if ".encoder.layer." in name}
    assert layers == {"0", "2"}, "block 0 is the embeddings, so block 1 is the first layer"
    assert not any(".embeddings." in name for name in changed)
    assert any("classifier" in name for name in changed)


def test_surgical_rejects_a_missing_block(bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(finetune.ModelError, match=r"no block 9; this network has \d, numbered 0"):
        finetune.train(
            "text-classification",
            data=text_rows(40),
            model=str(bert_folder),
            output=str(tmp_path / "run"),
            **{"method": SURGICAL, "method.blocks": [9]},
        )
