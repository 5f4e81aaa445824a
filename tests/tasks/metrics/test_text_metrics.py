"""Metrics of generated text."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import ConfigError
from tasks.metrics import text_metrics
from tasks.metrics.text_metrics import cer, exact_match, score_texts, wer
from tests.support.text_generators import TEMPLATES, set_up
from tests.support.tiny_models import answered_rows


def test_score_texts_tells_equal_from_different_texts() -> None:
    same = score_texts(["the cat sat on the mat"] * 2, ["the cat sat on the mat"] * 2)
    assert same["rougeL"] == 1
    assert same["bleu"] == pytest.approx(100)
    assert same["chrf"] == pytest.approx(100)
    other = score_texts(["no word alike", "the cat sat"], ["the cat sat on the mat"] * 2)
    assert 0 < other["rougeL"] < 0.5


def test_error_rates_count_edits_per_word_and_character() -> None:
    texts = ["the cat sat", "a dog"]
    references = ["the cat sat down", "the dog"]
    assert wer(texts, references) == {"wer": 2 / 6}
    assert cer(["abc"], ["abxd"]) == {"cer": 2 / 4}


def test_exact_match_may_ignore_case_and_punctuation() -> None:
    texts, references = ["Paris.", "Rome"], ["paris", "Rome"]
    assert exact_match(texts, references) == {"exact_match": 0.5}
    loose = exact_match(texts, references, ignore_case=True, ignore_punctuation=True)
    assert loose == {"exact_match": 1}


def test_generate_key_names_missing_metric_packages(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        text_metrics, "find_spec", lambda name: None if name == "sacrebleu" else name
    )
    with pytest.raises(ConfigError, match=r"generate: sacrebleu .*'finetune-kit\[generation\]'"):
        set_up(model_folders["gpt2"], answered_rows(8), **TEMPLATES, generate=True)
