"""Plain texts of more than max_length tokens: pieces without a lost token, in training and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

import finetune
from finetune.batching.parts import PartRows, split_into_parts
from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import ConfigError
from tasks import TextGeneration
from tasks.generation.documents import document_ids
from tasks.generation.tokens import chunk_tokens
from tests.support.text_generators import set_up, train

BOOK = [{"text": " ".join(f"the goal of match {number}" for number in range(60))}]
SHORT = [{"text": "the bank"}]


@pytest.mark.parametrize("keep_start", [0, 1])
@pytest.mark.parametrize("length", [3, 8, 9, 10, 15, 29])
def test_chunk_tokens_learns_each_token_once(length: int, keep_start: int) -> None:
    ids = list(range(100, 100 + length))
    chunks = chunk_tokens(np.array(ids, dtype=np.int32), keep_start, 8, keep_start)
    assert all(max(chunk.masked, 1) < len(chunk.ids) <= 8 for chunk in chunks)
    learned = [token for chunk in chunks for token in chunk.ids[max(chunk.masked, 1) :]]
    assert learned == ids[1:]
    for chunk in chunks[1:]:
        assert chunk.ids[:keep_start].tolist() == ids[:keep_start]
        assert chunk.ids[keep_start] == chunk.ids[keep_start + 1] - 1


@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_long_texts_are_split_into_parts(network: str, model_folders: dict[str, Path]) -> None:
    task, model, _ = set_up(model_folders[network], [*BOOK, *SHORT], max_length=32)
    rows, notes = split_into_parts(Dataset.from_list([*BOOK, *SHORT]), task)
    assert isinstance(rows, PartRows)
    assert notes == [f"train: 2 rows split into {len(rows)} parts"]
    samples = list(map(task.encode, rows))
    assert max(length.used for length in task.lengths(rows)) == 32
    # One token count for the book, whole or in parts; no part holds tokens of both rows.
    longer, _, _ = set_up(model_folders[network], [*BOOK, *SHORT], max_length=2000, chunk=False)
    whole = longer.codec_.whole(longer.exchange(BOOK[0]))  # type: ignore[attr-defined]
    batch = task.collate(samples)
    assert batch["targets"]["tokens"][:-1].sum() == whole.target_count
    assert task.encode(SHORT[0]) == samples[-1]
    assert len(model(batch)) == batch["count"]["loss"]


def test_short_texts_stay_whole(llama_folder: Path) -> None:
    task, _, _ = set_up(llama_folder, SHORT * 3)
    rows = Dataset.from_list(SHORT * 3)
    assert split_into_parts(rows, task) == (rows, [])


def test_truncation_replaces_splitting(llama_folder: Path) -> None:
    for keys in ({"truncation": "end"}, {"chunk": False}):
        task, _, _ = set_up(llama_folder, BOOK, max_length=32, **keys)
        assert task.parts is None
        assert task.lengths(BOOK)[0].cut > 0
    with pytest.raises(ConfigError, match="task.chunk=true splits long plain texts instead"):
        set_up(llama_folder, BOOK, chunk=True, truncation="end")


def test_run_measures_all_tokens_of_held_out_texts(llama_folder: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"max_length": 32, "max_steps": 2, "batch_size": 4, "method": "full"}
    run = train(llama_folder, tmp_path / "run", BOOK * 3 + SHORT, validation=BOOK, **keys)
    first = finetune.evaluate(run.path, BOOK)
    assert run.metrics["validation"]["loss"] == pytest.approx(first["loss"], rel=1e-3)
    assert run.predict([BOOK[0], SHORT[0]])[0]["generated_text"]


def test_single_text_has_no_validation_split() -> None:
    splits = open_splits(DataConfig(), TextGeneration(), BOOK)
    assert splits.validation is None
    assert "validation: none, since there is a single row" in splits.notes


@pytest.mark.parametrize("text", ["the bank of it", "<s>the bank</s>", "the </s>", ""])
@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_tokens_of_a_document_are_those_of_its_lists(
    network: str, text: str, model_folders: dict[str, Path]
) -> None:
    task, _, _ = set_up(model_folders[network], SHORT)
    exchange = task.exchange({"text": text})
    whole = task.codec_.whole(exchange)  # type: ignore[attr-defined]
    ids, masked = document_ids(task.codec_, exchange)  # type: ignore[arg-type]
    assert (ids.tolist(), masked) == (whole.ids, whole.first_target)
    if network == "llama" and "<s>" not in text:
        assert masked == 1
