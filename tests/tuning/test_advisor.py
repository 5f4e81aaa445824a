"""Searches without a space: which method is worth its time."""

from __future__ import annotations

from pathlib import Path

import pytest

import finetune
from finetune.errors import FinetuneError
from finetune.tuning.measured import RankedBy, expected_optimism, gain_interval
from tests.support.command_line import finetune as command


def test_the_advisor_reads_a_table_and_says_which_method_is_worth_it(
    bert_folder: Path,
    news_csv: Path,
    held_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(news_csv), f"model={bert_folder}", f"validation={held_csv}", "precision=fp32"]
    words += ["time=1h", f"search.dir={tmp_path}/news", f"test={held_csv}", "max_steps=9"]
    assert command("search", *words) == 0
    out = capsys.readouterr().out
    assert "text-classification, first row" in out
    for method in ("frozen", "lora", "partial", "full"):
        assert f"method={method} lr=" in out
    assert "train.max_steps=1 " in out
    assert "take method=" in out
    assert "another hour would try: " in out
    assert "validation accuracy 0." in out
    assert ", test 0." in out
    assert (tmp_path / "news" / "best.yaml").is_file()
    assert command("compare", f"{tmp_path}/news") == 0


def test_a_method_that_cannot_end_in_time_is_not_begun(
    bert_folder: Path, news_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "late"
    with pytest.raises(FinetuneError, match="no method was tried; give more time"):
        finetune.search(
            "text-classification",
            data=str(news_csv),
            model=str(bert_folder),
            method="full",
            validation=0.2,
            time="0.001s",
            search={"dir": str(folder)},
        )
    assert "full is not begun: it takes about" in capsys.readouterr().out
    assert not list(folder.glob("trial-*"))


@pytest.fixture
def measured(tmp_path: Path) -> list[Path]:
    """Statistics of 40 trials without a difference: 100 rows, right or wrong by a coin."""
    import torch
    from safetensors.torch import save_file

    paths = [tmp_path / f"{number}.safetensors" for number in range(40)]
    generator = torch.Generator().manual_seed(0)
    for path in paths:
        save_file({"right": torch.randint(2, (100,), generator=generator).float()}, path)
    return paths


def test_the_best_of_equal_trials_is_luck(measured: list[Path]) -> None:
    metric = RankedBy("accuracy", "max")

    def accuracy(stats: finetune.Stats) -> dict[str, float]:
        return {"accuracy": float(stats["right"].mean())}

    # The best of 40 means of 100 coins exceeds 0.5 by about 2.16 of their standard errors.
    assert expected_optimism(measured, metric, accuracy) == pytest.approx(2.16 * 0.05, abs=0.03)
    assert expected_optimism(measured[:1], metric, accuracy) == 0
    gain, low, high = gain_interval(*measured[:2], metric, accuracy)
    assert low < gain < high
    assert high - low == pytest.approx(4 * 0.05 * 2**0.5, abs=0.08)
