"""Run folders: reading and writing of their files, and their replacement."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from finetune.errors import CheckpointError, ConfigError
from finetune.io.checkpoint import save_checkpoint
from finetune.io.run_folder import RunFolder, check_free
from tests.support.run_configs import DIGESTS, config


def test_check_free_rejects_files_and_other_folders(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output.dir.*not empty and not a run"):
        check_free(RunFolder(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"is a file"):
        check_free(RunFolder(file))
    with pytest.raises(ConfigError, match=rf"output.dir: {re.escape(str(file))} is a file"):
        check_free(RunFolder(file / "runs" / "a"))
    (tmp_path / "empty").mkdir()
    check_free(RunFolder(tmp_path / "empty"))
    check_free(RunFolder(tmp_path / "new"))


def test_check_free_accepts_a_run_folder(folder: RunFolder) -> None:
    check_free(folder)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_replaced_run_is_kept_until_the_next_has_a_checkpoint(folder: RunFolder) -> None:
    save_checkpoint(folder.checkpoints, 1, {"model": {}, "optimizer": {}}, {})
    folder.append({"step": 1})
    (folder.path / "notes.txt").write_text("mine")
    before = names(folder.path) - {"notes.txt"}
    folder.set_aside()
    assert names(folder.replaced) == before
    assert names(folder.path) == {"notes.txt", *(f"replaced/{name}" for name in before)}
    check_free(folder)
    folder.begin(config(train={"seed": 1}), DIGESTS, {})
    folder.set_aside()  # again, before the second run has a checkpoint: the first one is kept
    assert names(folder.path) == {"notes.txt", *(f"replaced/{name}" for name in before)}
    folder.remove_replaced()
    assert names(folder.path) == {"notes.txt"}


@pytest.mark.parametrize("moved", range(8))
def test_replacement_that_is_killed_is_undone_or_complete(
    moved: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(folder.checkpoints, 1, {"model": {}, "optimizer": {}}, {})
    folder.append({"step": 1})
    before, replace = names(folder.path), Path.replace

    def killed(self: Path, target: Path) -> Path:
        nonlocal moved
        moved -= 1
        if moved < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        folder.set_aside()
        folder.remove_replaced()
    folder.undo_replacement()
    kept = names(folder.replaced) or names(folder.path)
    assert kept == (before if moved < 0 else set())
    assert not (names(folder.replaced) and folder.exists)


def test_history_ignores_a_truncated_last_line(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append({"step": step, "split": "train", "loss": 0.1 * step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    folder.cut_history(2)
    folder.append({"step": 3, "split": "train"})
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    assert folder.history()[1]["loss"] == 0.2


def test_begin_reports_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"output.dir: cannot write to .*file/run"):
        RunFolder(file / "run").begin(config(), DIGESTS, {})


def test_append_reports_a_full_disk(small_disk: Path) -> None:
    folder = RunFolder(small_disk)
    (small_disk / "full").write_bytes(b"x" * 2**20)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl.*Free some space"):
        folder.append({"step": 1, "text": "x" * 10_000})
