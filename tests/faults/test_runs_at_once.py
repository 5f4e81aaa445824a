"""Training commands that start in the same second, in one folder or over one cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.io.run_folder import RunFolder
from tests.support.lives import left_behind

RUNNING = "another training is running in this folder"


def start(folder: Path, *words: str) -> list[tuple[int, str]]:
    """Run the train command once per word, all at the same time, from `folder`."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "finetune", "train", *each.split()],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_CACHE": str(folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for each in words
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


@pytest.fixture
def base(bert_folder: Path, news_csv: Path) -> str:
    keys = {"model": bert_folder, "data": news_csv, "data.validation": 0.2, "batch_size": 12}
    words = [f"{key}={value}" for key, value in keys.items()]
    return " ".join(["task=text-classification", "epochs=2", "precision=fp32", *words])


@pytest.mark.slow
def test_one_of_two_equal_commands_is_refused(base: str, tmp_path: Path) -> None:
    ends = start(tmp_path, *[f"{base} method=full output=run"] * 2)
    assert sorted(code for code, _ in ends) == [0, 2]
    assert RUNNING in next(text for code, text in ends if code == 2)
    [(code, text)] = start(tmp_path, f"{base} method=full output=once")
    assert code == 0, text
    runs = [RunFolder(tmp_path / name) for name in ("run", "once")]
    assert left_behind(runs[0]) == left_behind(runs[1])


@pytest.mark.slow
def test_commands_with_other_keys_get_folders_of_their_own(base: str, tmp_path: Path) -> None:
    ends = start(tmp_path, *(f"{base} method=full train.seed={seed}" for seed in (1, 2, 3)))
    assert [code for code, _ in ends] == [0, 0, 0], ends
    runs = [RunFolder(path) for path in (tmp_path / "runs").iterdir()]
    assert sorted(run.path.name for run in runs) == [
        "news-bert-full",
        "news-bert-full-2",
        "news-bert-full-3",
    ]
    assert {run.read_config()["train"]["seed"] for run in runs} == {1, 2, 3}


@pytest.mark.slow
def test_commands_share_cached_features(base: str, tmp_path: Path) -> None:
    frozen = f"{base} method=frozen head=pooled"
    ends = start(tmp_path, *(f"{frozen} output=run-{number}" for number in range(3)))
    assert [code for code, _ in ends] == [0, 0, 0], ends
    results = [left_behind(RunFolder(tmp_path / f"run-{number}")) for number in range(3)]
    assert results[0] == results[1] == results[2]
    names = [path.name for path in (tmp_path / "cache" / "features").iterdir()]
    assert len(names) == 2 and not any("partial" in name for name in names)
