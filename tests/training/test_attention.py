"""Attention in training: measured before the first step, and the choice kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.io.run_folder import RunFolder
from finetune.training import network
from tests.support.lives import Stop, history, left_behind, live, load

KEYS: dict[str, Any] = {"method": "full", "model.dropout": 0}


@pytest.fixture(autouse=True)
def short_runs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MEASURED_RUN", 1)
    monkeypatch.setattr(network, "LEAST_SECONDS", 0.0)


def choice(folder: Path) -> object:
    return RunFolder(folder).read_config()["train"]["matmul_attention"]


@pytest.mark.parametrize(("gain", "chosen"), [(0.0, False), (1e9, True)])
def test_choose_attention_leaves_no_trace(
    gain: float,
    chosen: bool,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The measurement is real; only the gain that it asks for is not."""
    monkeypatch.setattr(network, "WORTHWHILE", gain)
    given = {**KEYS, "train.matmul_attention": chosen}
    expected = live(load(tmp_path / "given", bert_folder, news_csv, given))
    measured = live(load(tmp_path / "measured", bert_folder, news_csv, KEYS))
    assert expected is not None
    assert measured is not None
    assert choice(tmp_path / "measured") is chosen
    assert left_behind(measured) == left_behind(expected)


def test_choose_attention_measures_a_run_once(
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(network, "WORTHWHILE", 1e9)
    loaded = load(tmp_path / "run", bert_folder, news_csv, KEYS)
    assert live(loaded, stop=Stop(2)) is None
    assert "train.matmul_attention=True: measured: " in capsys.readouterr().out
    monkeypatch.setattr(network, "WORTHWHILE", 0.0)
    assert live(loaded) is not None
    assert "measured: " not in capsys.readouterr().out
    assert choice(tmp_path / "run") is True


@pytest.mark.parametrize(
    "keys",
    [
        {"model.dropout": 0.1},  # its attention drops out, so there is no choice
        {"model.attention": "eager"},
        {"train.deterministic": True},
        {"method": "frozen"},
    ],
    ids=str,
)
def test_choose_attention_measures_nothing_without_a_choice(
    keys: dict[str, Any],
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "WORTHWHILE", 1e9)
    keys = {"method": "full", "train.epochs": 1, **keys}
    assert live(load(tmp_path / "run", bert_folder, news_csv, keys), stop=Stop(1)) is None
    assert choice(tmp_path / "run") is False


def test_matmul_attention_changes_losses_by_rounding_only(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    losses = []
    for chosen in (False, True):
        keys = {**KEYS, "train.matmul_attention": chosen, "train.epochs": 1}
        folder = live(load(tmp_path / str(chosen), bert_folder, news_csv, keys))
        assert folder is not None
        losses.append([line["loss"] for line in history(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != losses[1]


def test_choose_attention_leaves_what_is_too_short_to_be_measured(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "WORTHWHILE", 1e9)
    monkeypatch.setattr(network, "LEAST_SECONDS", 60.0)
    loaded = load(tmp_path / "run", bert_folder, news_csv, {**KEYS, "train.epochs": 1})
    assert live(loaded, stop=Stop(1)) is None
    assert choice(tmp_path / "run") is False
