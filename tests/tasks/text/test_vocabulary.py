"""Words that a tokenizer fragments, and words added to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.errors import ConfigError
from finetune.testing import check_task
from tasks import TextClassification
from tests.support.text_classifiers import set_up
from tests.support.tiny_models import text_rows

ROWS = text_rows(12)


def test_add_tokens_makes_words_single_tokens_with_mean_embeddings(gpt2_folder: Path) -> None:
    word = "fibromyalgia"
    task, model = set_up(gpt2_folder, ROWS, add_tokens=[word], head="native")
    plain, before = set_up(gpt2_folder, ROWS, head="native")
    pieces = plain.tokenizer_(f" {word}")["input_ids"]
    assert len(pieces) > 3
    (index,) = task.tokenizer_(word)["input_ids"]
    weights = [m.network.get_input_embeddings().weight for m in (model, before)]
    assert torch.allclose(weights[0][index], weights[1][pieces].mean(0))
    assert torch.equal(weights[0][: len(weights[1])], weights[1])
    check_task(TextClassification(add_tokens=[word], head="pooled"), ROWS, str(gpt2_folder))


def test_add_tokens_accepts_unknown_words(bert_folder: Path) -> None:
    task, model = set_up(bert_folder, ROWS, add_tokens=["quantum"])
    tokenizer, weight = task.tokenizer_, model.network.get_input_embeddings().weight
    (token,) = tokenizer("quantum", add_special_tokens=False)["input_ids"]
    assert torch.equal(weight[token], weight[tokenizer.unk_token_id])


def test_add_tokens_rejects_single_tokens(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'market' is already a single token"):
        set_up(bert_folder, ROWS, add_tokens=["market"])


def test_survey_lists_fragmented_words(gpt2_folder: Path) -> None:
    task, _ = set_up(gpt2_folder, ROWS)
    rows = [{"text": f"the fibromyalgia of the market {place}"} for place in range(6)]
    assert task.views.survey(rows)["fragmented words"].startswith("fibromyalgia (")
    assert task.views.survey(rows[:2]) == {}
