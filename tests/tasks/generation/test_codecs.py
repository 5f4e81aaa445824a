"""Codecs: tokens that carry loss, special tokens, truncation and lengths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.batching.data_loader import measure_split
from finetune.errors import DataError, ModelError
from tasks.generation import codecs
from tasks.generation.tokens import Tokens, truncate_tokens
from tasks.text import long_texts
from tests.support.characters import characters_read
from tests.support.text_generators import (
    ANSWERED,
    CHATS,
    NETWORKS,
    PLAIN,
    TEMPLATES,
    loss_text,
    set_up,
)

# ---- loss and special tokens


@pytest.mark.parametrize(
    ("network", "ending"), [("gpt2", "<|endoftext|>"), ("llama", "</s>"), ("t5", "</s>")]
)
def test_loss_covers_the_completion_and_its_end_token(
    network: str, ending: str, model_folders: dict[str, Path]
) -> None:
    task, _, _ = set_up(model_folders[network], ANSWERED, **TEMPLATES)
    for row in ANSWERED:
        assert loss_text(task, row) == row["answer"] + ending


def test_encode_adds_one_start_token(llama_folder: Path) -> None:
    for keys in (TEMPLATES, {**TEMPLATES, "prompt": "<s>Text: {body}\nTopic:"}):
        task, _, _ = set_up(llama_folder, ANSWERED, **keys)
        encoded = task.encode(ANSWERED[0])["inputs"]
        assert encoded["input_ids"].count(0) == encoded["prompt_ids"].count(0) == 1
    task, _, _ = set_up(llama_folder, CHATS)
    assert task.encode(CHATS[0])["inputs"]["input_ids"].count(0) == 1


def test_padding_uses_the_end_token_with_a_note(llama_folder: Path) -> None:
    task, _, notes = set_up(llama_folder, PLAIN)
    assert any(note.startswith("padding token: '</s>'") for note in notes)
    assert loss_text(task, PLAIN[0]).endswith("</s>")


def without_tokens(folder: Path, copy: Path, *names: str) -> Path:
    """Copy a model without these special tokens of its tokenizer."""
    shutil.copytree(folder, copy)
    file = copy / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: item for key, item in config.items() if key not in names}))
    return copy


def test_load_tokenizer_rejects_tokenizers_that_cannot_pad(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    names = ("pad_token", "eos_token", "unk_token")
    folder = without_tokens(gpt2_folder, tmp_path / "gpt2", *names)
    with pytest.raises(ModelError, match="has no padding, end-of-sequence or unknown token"):
        set_up(folder, ANSWERED, **TEMPLATES)


@pytest.mark.parametrize("network", NETWORKS)
def test_encode_works_without_an_end_token(
    network: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = without_tokens(model_folders[network], tmp_path / network, "eos_token")
    task, model, _ = set_up(folder, ANSWERED, **TEMPLATES)
    batch = task.collate([task.encode(row) for row in ANSWERED])
    assert len(model(batch)) == batch["count"]["loss"] > 0


def test_unknown_tokens_note_ignores_gpt2_whose_unknown_token_is_its_end_token(
    gpt2_folder: Path,
) -> None:
    turns = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "goal"}]
    task, _, notes = set_up(gpt2_folder, [{"messages": turns * 2}])
    assert task.tokenizer_.unk_token == task.tokenizer_.eos_token
    assert not any(note.startswith("tokens:") for note in notes)


# ---- truncation and lengths


@pytest.mark.parametrize(
    ("truncation", "max_length", "ids"),
    [
        ("prompt", 6, [0, 3, 4, 5, 6, 7]),  # the start token is kept
        ("prompt", 3, [0, 5, 6]),  # no prompt is left, so the end is cut
        ("end", 6, [0, 1, 2, 3, 4, 5]),
        ("drop", 6, []),
        ("end", 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_truncate_tokens_cuts_the_prompt_or_the_end(
    truncation: Any, max_length: int, ids: list[int]
) -> None:
    tokens = Tokens(list(range(8)), [False] * 5 + [True] * 3)
    truncated = truncate_tokens(tokens, max_length, truncation, keep_start=1)
    assert truncated.ids == ids
    assert truncated.loss_mask == [token >= 5 for token in ids]


LONG = [{"body": "market " * 120, "answer": " business business"}, *ANSWERED]


@pytest.mark.parametrize(
    ("truncation", "used", "target"),
    [("prompt", 40, " business business<|endoftext|>"), ("end", 0, "")],
)
def test_truncation_key_cuts_the_prompt_or_the_end(
    truncation: str, used: int, target: str, gpt2_folder: Path
) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=40, truncation=truncation)
    length = task.lengths(LONG)[0]
    assert length.used == used  # 0 for a row that has lost its completion
    assert length.cut > 0
    if used:
        assert loss_text(task, LONG[0]) == target
        assert task.views.show(task.encode(LONG[0])).endswith(f"Topic:«{target}»")


def test_truncation_drop_skips_and_counts_rows(gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=100, truncation="drop")
    rows = Dataset.from_list(LONG)
    split, lengths, notes = measure_split("train", rows, task)
    assert len(split) == len(lengths) == len(LONG) - 1
    assert notes == ["train: 1 of 7 rows skipped: no trainable target left after truncation"]
    with pytest.raises(DataError, match="no trainable target left after truncation in 1 of 1 rows"):
        measure_split("train", rows.select([0]), task)


def test_truncation_refuse_rejects_rows_that_are_too_long(gpt2_folder: Path) -> None:
    task, _, _ = set_up(gpt2_folder, LONG, **TEMPLATES, max_length=100, truncation="refuse")
    with pytest.raises(DataError, match="1 of 7 rows have more than 100 tokens"):
        task.lengths(LONG)


def test_lengths_are_zero_for_dialogues_without_an_answer(model_folders: dict[str, Path]) -> None:
    unanswered = {"messages": CHATS[0]["messages"][:2]}
    for network in ("gpt2", "t5"):
        task, _, _ = set_up(model_folders[network], CHATS)
        assert task.lengths([unanswered, CHATS[0]])[0].used == 0


def test_lengths_for_prediction_are_those_of_the_prompts(
    model_folders: dict[str, Path],
) -> None:
    for network in ("gpt2", "t5"):
        task, _, _ = set_up(model_folders[network], CHATS)
        short, long = task.lengths(
            [task.rows.from_value("goal"), task.rows.from_value("goal " * 9)], predicting=True
        )
        assert 0 < short.used < long.used


PARTS = {"PART": 300, "WINDOW": 200, "_CONTEXT": 40, "_MARGIN": 5}
"""Constants of long texts, for texts that are long but quick to tokenize."""


@pytest.mark.parametrize("truncation", [None, "prompt", "end", "drop"])
@pytest.mark.parametrize("network", ["gpt2", "t5", "bart"])
def test_very_long_prompts_and_answers_are_encoded_as_a_whole_would_be(
    network: str,
    truncation: str | None,
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = " ".join(f"market goal {number}" for number in range(200))
    rows = [{"body": long, "answer": " yes"}, {"body": "the match", "answer": long}, *ANSWERED]
    rows += [{"body": long, "answer": long[::-1]}]
    keys = {**TEMPLATES, "max_length": 60, "truncation": truncation}
    task, _, _ = set_up(model_folders[network], rows, **keys)
    whole, counted = [task.encode(row) for row in rows], task.lengths(rows)
    for name, value in PARTS.items():
        monkeypatch.setattr(long_texts, name, value)
    assert [task.encode(row) for row in rows] == whole
    assert task.lengths(rows) == counted
    assert counted[1].cut > 0


@pytest.mark.parametrize("network", ["gpt2", "t5"])
def test_little_of_huge_prompts_and_answers_is_tokenized(
    network: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = " ".join(f"market goal {number}" for number in range(10_000, 17_000))
    rows = [{"body": long, "answer": long}, *ANSWERED]
    task, _, _ = set_up(model_folders[network], rows, **TEMPLATES, max_length=60)
    whole, counted = task.encode(rows[0]), task.lengths(rows)
    for name, value in (PARTS | {"COUNTED": 1000}).items():
        monkeypatch.setattr(long_texts, name, value)
    monkeypatch.setattr(codecs, "COUNTED", 1000)
    read = characters_read(task.tokenizer_, monkeypatch)
    lengths = task.lengths(rows)
    assert [task.encode(rows[0]) for _ in range(3)] == [whole] * 3
    assert sum(read) < 30_000 < len(long) / 4
    assert [length.used for length in lengths] == [length.used for length in counted]
    assert [length.is_estimate for length in lengths] == [True, *[False] * len(ANSWERED)]
    assert lengths[0].cut == pytest.approx(counted[0].cut, rel=0.2)
