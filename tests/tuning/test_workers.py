"""Several processes that share a search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from finetune.tuning.workers import share_devices
from tests.support.command_line import launch


@pytest.fixture
def words(bert_folder: Path, news_csv: Path, held_csv: Path, tmp_path: Path) -> list[str]:
    words = ["task=text-classification", f"model={bert_folder}", f"data.train={news_csv}"]
    words += [f"data.validation={held_csv}", "batch_size=16", "epochs=2", "precision=fp32"]
    words += [
        "method=full",
        "lr=log(1e-6,1e-2)",
        "train.best=-loss",
        "trials=4",
        f"search.dir={tmp_path}/shared",
    ]
    return words


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "finetune", "search", *words]
    env = os.environ | {"PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def states(folder: Path) -> list[str]:
    table = pandas.read_parquet(folder / "trials.parquet")
    assert table["trial"].tolist() == list(range(len(table)))
    return sorted(table["state"])


@pytest.mark.slow
def test_two_workers_share_the_trials_and_stop_together(words: list[str], tmp_path: Path) -> None:
    search, folder = start(*words, "search.workers=2"), tmp_path / "shared"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("trial-*/checkpoints/step-*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    search.send_signal(signal.SIGTERM)
    out, _ = search.communicate(timeout=300)
    assert search.returncode == 128 + signal.SIGTERM, out
    assert "run the same command again to resume" in out
    search = start(*words, "search.workers=2")
    out, _ = search.communicate(timeout=600)
    assert search.returncode == 0, out
    assert len(states(folder)) == 4


@pytest.mark.slow
def test_two_searches_in_one_folder_share_the_trials(words: list[str], tmp_path: Path) -> None:
    searches = [start(*words) for _ in range(2)]
    outs = [search.communicate(timeout=600)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], outs
    assert len(states(tmp_path / "shared")) == 4
    ended = [sum(f"trial {number}: " in out for out in outs) for number in range(4)]
    assert ended == [1] * 4, outs


@pytest.mark.slow
def test_a_pruned_trial_stops_in_all_of_its_processes(words: list[str], tmp_path: Path) -> None:
    script = "import sys\nfrom finetune.cli.main import main\nsys.argv[0] = 'finetune'\nmain()"
    launch(script, 2, "search", *words, "search.sampler=random")
    assert "pruned" in states(tmp_path / "shared")


def test_share_devices_gives_each_worker_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert share_devices(2) == ["4,6", "5"]
    assert share_devices(4) == ["4", "5", "6", "4"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert share_devices(2) == [None, None]
