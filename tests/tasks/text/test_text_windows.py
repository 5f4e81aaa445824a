"""Texts that are too long: head and tail, or windows that are pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.reporting.run_facts import cut_note
from finetune.testing import check_task
from tasks import TextClassification
from tests.support.lives import Stop, left_behind, live, load
from tests.support.text_classifiers import set_up
from tests.support.tiny_models import text_rows

ROWS = text_rows(12)
WINDOWS = {"truncation": "windows", "max_length": 12, "window_overlap": 3}


def set_up_eval(model: Path, **keys: Any) -> tuple[TextClassification, TransferModel]:
    """Set up a task on ROWS; return it and its untrained network in eval mode."""
    task, network = set_up(model, ROWS, **keys)
    return task, network.eval()


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_windows_keep_the_task_contract(head: str, pooling: str, bert_folder: Path) -> None:
    check_task(
        TextClassification(**WINDOWS, window_pooling=pooling, head=head), ROWS, str(bert_folder)
    )


def test_head_tail_keeps_the_task_contract(gpt2_folder: Path) -> None:
    check_task(TextClassification(truncation="head-tail", max_length=12), ROWS, str(gpt2_folder))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_window_pooling_matches_windows_read_one_by_one(pooling: str, bert_folder: Path) -> None:
    task, model = set_up_eval(bert_folder, **WINDOWS, window_pooling=pooling)
    batch = task.collate([task.encode(row) for row in ROWS])
    pooled = model(batch)
    for row, logits in zip(ROWS, pooled, strict=True):
        words = row["text"].split()
        # 10 words between [CLS] and [SEP], at a stride of 7 words.
        starts = range(0, max(len(words) - 3, 1), 7)
        parts = [{"text": " ".join(words[start : start + 10])} for start in starts]
        alone = torch.cat([model(task.collate([task.encode(part)])) for part in parts])
        expected = alone.mean(0) if pooling == "mean" else alone.amax(0)
        assert torch.allclose(logits, expected, atol=1e-5)


def test_window_length_matches_the_encoded_windows(bert_folder: Path) -> None:
    for max_windows in (2, 8):
        task, _ = set_up(bert_folder, ROWS, **WINDOWS, max_windows=max_windows)
        for row, length in zip(ROWS, task.lengths(ROWS), strict=True):
            inputs = task.encode(row)["inputs"]
            assert length.used == len(inputs["input_ids"]) == sum(inputs["windows"])
            read = length.used - 2 - (len(inputs["windows"]) - 1) * 5
            assert length.cut == len(row["text"].split()) - read
            assert (length.cut > 0) == (len(row["text"].split()) > 10 + 7 * (max_windows - 1))


def test_cut_note_counts_tokens_beyond_max_windows_once(bert_folder: Path) -> None:
    """Two windows of 10 words that share 3 read 17 of 40 words, 19 of 42 tokens."""
    task, _ = set_up(bert_folder, ROWS, **WINDOWS, max_windows=2)
    lengths = task.lengths([{"text": " ".join(["bank"] * 40), "label": "business"}])
    assert (
        cut_note(lengths, "tokens")
        == "1 of 1 rows are truncated to 19 tokens, which loses 55% of all tokens"
    )


def test_head_tail_reads_both_ends(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, ROWS, truncation="head-tail", max_length=12)
    words = next(row["text"].split() for row in ROWS if len(row["text"].split()) > 20)
    tokens = task.tokenizer_.convert_ids_to_tokens(
        task.encode({"text": " ".join(words)})["inputs"]["input_ids"]
    )
    assert tokens == ["[CLS]", *words[:2], *words[-8:], "[SEP]"]
    short = " ".join(words[:10])
    assert (
        task.encode({"text": short})["inputs"]["input_ids"] == task.tokenizer_(short)["input_ids"]
    )


def test_windows_with_cached_features_resume_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {"method": "frozen", **{f"task.{name}": value for name, value in WINDOWS.items()}}
    once = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    again = load(tmp_path / "resumed", bert_folder, news_csv, keys)
    assert live(again, stop=Stop(3)) is None
    resumed = live(again)
    assert once is not None
    assert resumed is not None
    assert left_behind(once) == left_behind(resumed)


def test_windows_reject_large_overlaps_and_pairs(bert_folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"window_overlap: an overlap of 10 tokens leaves no new tokens.*below 10"
    ):
        set_up_eval(bert_folder, **{**WINDOWS, "window_overlap": 10})
    with pytest.raises(ConfigError, match=r"windows supports a single text, not a pair"):
        set_up_eval(bert_folder, **WINDOWS, text=["text", "label"], label="label")
