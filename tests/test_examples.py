"""Each example is run: what is shown to a reader must work."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import finetune
from finetune.errors import DataError
from finetune.registry import find_task
from finetune.testing import check_task
from tests.support.tiny_models import TOPICS, text_rows

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TAGGING = "examples/token_tagging.py:TokenTagging"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where an example is named from


def tagged_rows(count: int) -> list[dict[str, list[str]]]:
    """Sentences in which every word of a topic is tagged with it."""
    topics = {word: topic for topic, words in TOPICS.items() for word in words}
    sentences = [row["text"].split() for row in text_rows(count)]
    return [{"words": ws, "tags": [topics.get(word, "O") for word in ws]} for ws in sentences]


def test_every_example_is_imported_and_short() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        runpy.run_path(str(path))
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path.name


def test_token_tagging_keeps_the_contract(bert_folder: Path) -> None:
    check_task(find_task(TAGGING)(), tagged_rows(6), str(bert_folder))


def test_token_tagging_is_trained_reloaded_and_predicts(bert_folder: Path, tmp_path: Path) -> None:
    rows, data = tagged_rows(40), tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = str(tmp_path / "run")
    keys = {"model": str(bert_folder), "method": "full", "epochs": 12, "batch_size": 8}
    run = finetune.train(TAGGING, data=str(data), output=folder, lr=3e-3, head_lr=3e-3, **keys)
    history = run.history().query("split == 'validation'")["accuracy"].tolist()
    assert history[0] < 0.7 < history[-1], "it has learned to tag"
    predictions = finetune.load(run.path)([{"words": row["words"]} for row in rows])
    assert [len(said["tags"]) for said in predictions] == [len(row["words"]) for row in rows]
    tags = {tag for said in predictions for tag in said["tags"]}
    assert tags <= {*TOPICS, "O"}
    assert len(tags) > 1
    assert run.predict([rows[0]]) == predictions[:1]


def test_token_tagging_says_what_is_wrong_with_rows(bert_folder: Path, tmp_path: Path) -> None:
    rows = [*tagged_rows(8), {"words": ["a", "goal"], "tags": ["O"]}, {"words": [], "tags": []}]
    keys = {"model": str(bert_folder), "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=r"2 words have 1 tags[\s\S]*words is empty"):
        finetune.train(TAGGING, data=rows, **keys)
    with pytest.raises(DataError, match=r"task.tags: there is no column 'tags'.*tag"):
        finetune.train(TAGGING, data=[{"words": ["a"], "tag": ["O"]}] * 8, **keys)
