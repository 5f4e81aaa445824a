"""Searches without a space: which method is worth its time."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import finetune
from finetune.errors import FinetuneError
from finetune.inspection.run_costs import Cost
from finetune.searches import advisor
from finetune.searches.ladder import RUNGS, Prospect
from finetune.tuning.measured import RankedBy, expected_optimism, gain_interval
from finetune.tuning.trial_training import TrialTraining
from tests.support.command_line import finetune as command


@pytest.fixture
def words(bert_folder: Path, news_csv: Path, held_csv: Path, tmp_path: Path) -> list[str]:
    words = [str(news_csv), f"model={bert_folder}", f"validation={held_csv}", "precision=fp32"]
    return [*words, "time=1h", f"search.dir={tmp_path}/news", f"test={held_csv}", "max_steps=9"]


def test_the_advisor_reads_a_table_and_says_which_method_is_worth_it(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", *words, "lr=1e-3") == 0
    out = capsys.readouterr().out
    assert "text-classification, first row" in out
    for method in ("frozen", "lora", "partial", "full"):
        assert f"{method}: 9 steps of about 0." in out
        assert f"method={method}  accuracy 0." in out
    assert "take method=" in out
    assert re.search(r"gains? [+-]0\.\d+ \(95 % interval [+-]0\.\d+ to [+-]0\.\d+, bootstrap", out)
    assert "another hour would try: " in out
    assert "validation accuracy 0." in out
    assert ", test 0." in out
    assert (tmp_path / "news" / "best.yaml").is_file()
    assert command("compare", f"{tmp_path}/news") == 0


@pytest.mark.slow
def test_rates_compete_on_rungs_and_finished_runs_are_not_trained_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", *words, "method=lora") == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("trial ")]
    steps = [re.findall(r"train.max_steps=(\d)", line) for line in lines]
    assert steps == [["1"]] * 3 + [["3"]] * 2 + [[]]
    before = read_metrics(tmp_path / "news")
    assert command("search", *words, "method=lora") == 0
    assert read_metrics(tmp_path / "news") == before


@pytest.mark.slow
def test_no_method_is_left_out_early_if_there_is_time_for_all(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", *words) == 0
    out = capsys.readouterr().out
    assert "is left out" not in out
    for method in ("frozen", "lora", "partial", "full"):
        assert re.search(rf"method={method} lr=\S+  accuracy", out), f"{method} to its end"


def read_metrics(folder: Path) -> dict[str, str]:
    """Return what each run of a search has logged."""
    return {path.parent.name: path.read_text() for path in folder.glob("trial-*/metrics.jsonl")}


def test_a_method_that_cannot_end_in_time_is_not_begun(
    bert_folder: Path, news_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "late"
    with pytest.raises(FinetuneError, match="within the time .full takes about .*; give more time"):
        finetune.search(
            "text-classification",
            data=str(news_csv),
            model=str(bert_folder),
            method="full",
            validation=0.2,
            time="0.001s",
            search={"dir": str(folder)},
        )
    assert "full is left out: takes about" in capsys.readouterr().out
    assert not list(folder.glob("trial-*"))


def test_nothing_more_is_begun_once_the_time_is_up(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first run takes two hours, far longer than was estimated."""
    slow = TrialTraining.train

    def train(*args: Any, **keys: Any) -> None:
        slow(*args, **keys)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 7200)
        monkeypatch.setattr(advisor, "time", clock)

    monkeypatch.setattr(TrialTraining, "train", train)
    assert command("search", *words) == 0
    out = capsys.readouterr().out
    runs = [line for line in out.splitlines() if line.startswith("trial ")]
    assert len(runs) == 2, "one on the first rung, and one to the end"
    assert "lora is left out: was not timed, since the time is up" in out
    assert "no other method was trained to its end" in out
    assert "another hour would try: lora, which was not timed, and partial, which was" in out


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
    gain = gain_interval(*measured[:2], metric, accuracy)
    assert gain.low < gain.value < gain.high
    assert gain.high - gain.low == pytest.approx(4 * 0.05 * 2**0.5, abs=0.08)


@pytest.mark.parametrize(
    ("left", "rungs"), [(100.0, RUNGS), (60.0, RUNGS[:1]), (35.0, ()), (28.0, None)]
)
def test_rungs_are_those_that_fit_into_the_time(left: float, rungs: object) -> None:
    cost = Cost(64, 8, 0.1, 0, {"features": 5.0, "training": 15.0, "one": 1.0}, 1.0, 5.0)
    prospect = Prospect("lora", "train.epochs", 3, 3e-4, 100, 5, cost)
    # Without what is done once, a run takes 20 s: with an overhead of 4 s, 24 s to its end, and
    # 3 * (20 / 9 + 4) s or 2 * (20 / 3 + 4) s on the rungs before.
    assert prospect.rungs(left, 4.0) == rungs
    assert prospect.rates == [3e-4, 1e-4, 9e-4]
    assert prospect.shortened(1 / 9) == {"train.epochs": 0.3333}
