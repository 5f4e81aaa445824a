"""output.hub pushes a run when it finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

import finetune
from tests.support.command_line import finetune as command
from tests.support.hub_server import TOKEN, Fault
from tests.support.local_hub import ROWS, digest, hub


def words(run: finetune.Run, bert_folder: Path, news_csv: Path, *more: str) -> list[str]:
    command_line = ["train", "task=text-classification", f"model={bert_folder}"]
    return [
        *command_line,
        "method=lora",
        "epochs=1",
        f"data={news_csv}",
        f"output={run.path}",
        *more,
    ]


def test_output_hub_pushes_a_finished_run_and_retries_on_rerun(
    run: finetune.Run,
    root: Path,
    bert_folder: Path,
    news_csv: Path,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = digest(run.path)
    command_line = words(run, bert_folder, news_csv, "output.hub=me/news")
    with hub(root, Fault("commit", 403)):
        assert command(*command_line) == 3, "trained but not pushed"
    captured = capsys.readouterr()
    assert f"To push later: finetune push {run.path} me/news" in captured.err
    assert "accuracy" in captured.out, "the results are printed first"
    assert TOKEN not in captured.err
    with hub(root):
        assert command(*command_line) == 0
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)
    assert digest(run.path) == before


def test_output_hub_rejects_invalid_repository_ids_before_training(
    run: finetune.Run, bert_folder: Path, news_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for repository in ("news", "a/b/c", "me/my news", "me/.."):
        assert command(*words(run, bert_folder, news_csv, f"output.hub={repository}")) == 2
        assert "write OWNER/NAME" in capsys.readouterr().err
    assert command(*words(run, bert_folder, news_csv, f"output.hub={TOKEN}")) == 2
    assert TOKEN not in capsys.readouterr().err
