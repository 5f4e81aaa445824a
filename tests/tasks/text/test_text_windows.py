"""Texts that are too long: both ends, windows that are pooled; and words that a tokenizer breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.reporting.run_facts import cut_note
from finetune.testing import check_task
from tasks import TextClassification
from tests.support.contract import resolve
from tests.support.lives import Stop, left_behind, live, load
from tests.support.tiny_models import text_rows

ROWS = text_rows(12)
WINDOWS = {"truncation": "windows", "max_length": 12, "window_overlap": 3}


def set_up(
    model: Path, frozen: bool = False, **keys: Any
) -> tuple[TextClassification, TransferModel]:
    task, source, table = (
        TextClassification(**keys),
        ModelConfig(name=str(model)),
        Dataset.from_list(ROWS),
    )
    resolve(task, table[:100])
    task.setup(table, source, frozen=frozen)
    torch.manual_seed(0)
    return task, task.build_model(source).eval()


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_windows_keep_the_contract(head: str, pooling: str, bert_folder: Path) -> None:
    check_task(
        TextClassification(**WINDOWS, window_pooling=pooling, head=head), ROWS, str(bert_folder)
    )


def test_head_tail_keeps_the_contract(gpt2_folder: Path) -> None:
    check_task(TextClassification(truncation="head-tail", max_length=12), ROWS, str(gpt2_folder))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_row_is_what_its_windows_say_pooled(pooling: str, bert_folder: Path) -> None:
    task, model = set_up(bert_folder, **WINDOWS, window_pooling=pooling)
    batch = task.collate([task.encode(row) for row in ROWS])
    pooled = model(batch)
    for row, said in zip(ROWS, pooled, strict=True):
        words = row["text"].split()
        # 10 words between [CLS] and [SEP], each window 7 further on than the one before.
        starts = range(0, max(len(words) - 3, 1), 7)
        parts = [{"text": " ".join(words[start : start + 10])} for start in starts]
        alone = torch.cat([model(task.collate([task.encode(part)])) for part in parts])
        expected = alone.mean(0) if pooling == "mean" else alone.amax(0)
        assert torch.allclose(said, expected, atol=1e-5)


def test_lengths_are_those_of_the_windows(bert_folder: Path) -> None:
    for most in (2, 8):
        task, _ = set_up(bert_folder, **WINDOWS, max_windows=most)
        for row, length in zip(ROWS, task.lengths(ROWS), strict=True):
            own = task.encode(row)["inputs"]
            assert length.used == len(own["input_ids"]) == sum(own["windows"])
            read = length.used - 2 - (len(own["windows"]) - 1) * 5
            assert length.cut == len(row["text"].split()) - read
            assert (length.cut > 0) == (len(row["text"].split()) > 10 + 7 * (most - 1))


def test_loss_by_a_limit_of_windows_counts_each_token_once(bert_folder: Path) -> None:
    """Windows of 10 words that share 3: two read 17 of 40 words, and [CLS] and [SEP] of 42 tokens."""
    task, _ = set_up(bert_folder, **WINDOWS, max_windows=2)
    lengths = task.lengths([{"text": " ".join(["bank"] * 40), "label": "business"}])
    assert (
        cut_note(lengths, "tokens")
        == "1 of 1 rows are cut to 19 tokens, which loses 55% of all tokens"
    )


def test_both_ends_are_read(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, truncation="head-tail", max_length=12)
    words = next(row["text"].split() for row in ROWS if len(row["text"].split()) > 20)
    tokens = task.tokenizer_.convert_ids_to_tokens(
        task.encode({"text": " ".join(words)})["inputs"]["input_ids"]
    )
    assert tokens == ["[CLS]", *words[:2], *words[-8:], "[SEP]"]
    short = " ".join(words[:10])
    assert (
        task.encode({"text": short})["inputs"]["input_ids"] == task.tokenizer_(short)["input_ids"]
    )


def test_windows_of_frozen_features_resume_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {"method": "frozen", **{f"task.{name}": value for name, value in WINDOWS.items()}}
    once = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    again = load(tmp_path / "often", bert_folder, news_csv, keys)
    assert live(again, stop=Stop(3)) is None
    often = live(again)
    assert once is not None
    assert often is not None
    assert left_behind(once) == left_behind(often)


def test_windows_that_cannot_be_are_refused(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"window_overlap: 10 tokens leave nothing new.*below 10"):
        set_up(bert_folder, **{**WINDOWS, "window_overlap": 10})
    with pytest.raises(ConfigError, match=r"windows cuts one text, not a pair"):
        set_up(bert_folder, **WINDOWS, text=["text", "label"], label="label")


# ---- words of the user's field


def test_added_words_are_whole_and_start_as_the_mean_of_their_pieces(gpt2_folder: Path) -> None:
    word = "fibromyalgia"
    task, model = set_up(gpt2_folder, add_tokens=[word], head="native")
    plain, before = set_up(gpt2_folder, head="native")
    pieces = plain.tokenizer_(f" {word}")["input_ids"]
    assert len(pieces) > 3
    (index,) = task.tokenizer_(word)["input_ids"]
    weights = [m.network.get_input_embeddings().weight for m in (model, before)]
    assert torch.allclose(weights[0][index], weights[1][pieces].mean(0))
    assert torch.equal(weights[0][: len(weights[1])], weights[1])
    check_task(TextClassification(add_tokens=[word], head="pooled"), ROWS, str(gpt2_folder))


def test_words_that_a_tokenizer_breaks_are_listed(gpt2_folder: Path) -> None:
    task, _ = set_up(gpt2_folder)
    rows = [{"text": f"the fibromyalgia of the market {place}"} for place in range(6)]
    assert task.views.survey(rows)["broken words"].startswith("fibromyalgia (")
    assert task.views.survey(rows[:2]) == {}


def test_word_that_a_tokenizer_does_not_know_is_added(bert_folder: Path) -> None:
    task, model = set_up(bert_folder, add_tokens=["quantum"])
    tokenizer, weight = task.tokenizer_, model.network.get_input_embeddings().weight
    (token,) = tokenizer("quantum", add_special_tokens=False)["input_ids"]
    assert torch.equal(weight[token], weight[tokenizer.unk_token_id])


def test_word_that_is_one_token_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'market' is one token already"):
        set_up(bert_folder, add_tokens=["market"])
