"""A finished LoRA run to push, and the folder of a local hub."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import finetune
from tests.support.hub_server import TOKEN


@pytest.fixture(scope="session")
def run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    """A finished LoRA run, trained with a hub token in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        folder = tmp_path_factory.mktemp("hub") / "run"
        keys = {"model": str(bert_folder), "method": "lora", "epochs": 1, "output": str(folder)}
        return finetune.train("text-classification", data=str(news_csv), **keys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the files on the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait before a retry; sleeping returns at once."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds
