"""The lock of a run folder: one training at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.api import train
from finetune.errors import CheckpointError
from finetune.io.run_lock import LOCK, OWNER, lock_run
from tests.support.tiny_models import text_rows

HOLDER = """
import sys, time
from pathlib import Path
from finetune.io.run_lock import lock_run
with lock_run(Path(sys.argv[1]), is_main=True):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the lock of tmp_path/run."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_lock_run_names_the_owner_and_is_free_once_its_owner_is_killed(
    holder: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    owner = rf"another training is running .* \(process {holder.pid} on .*since .*output.dir"
    with pytest.raises(CheckpointError, match=owner), lock_run(folder, is_main=True):
        pass
    holder.kill()
    holder.wait()
    assert (folder / OWNER).exists()  # left by the killed process
    with lock_run(folder, is_main=True):
        assert str(os.getpid()) in (folder / OWNER).read_text()
    assert not (folder / OWNER).exists()


def test_train_refuses_a_folder_in_which_another_training_runs(
    holder: Any, tmp_path: Path, bert_folder: Path
) -> None:
    folder = tmp_path / "run"
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="another training is running in this folder"):
        train("text-classification", data=text_rows(24), model=str(bert_folder), output=str(folder))
    assert time.monotonic() - start < 30
    assert {path.name for path in folder.iterdir()} == {LOCK, OWNER}


def test_train_refuses_a_folder_in_which_another_training_has_begun(
    tmp_path: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training import run as run_module

    folder = tmp_path / "run"
    assemble = run_module.assemble

    def meanwhile(*arguments: Any) -> Any:
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        return assemble(*arguments)

    monkeypatch.setattr(run_module, "assemble", meanwhile)
    with pytest.raises(CheckpointError, match="another training began in this folder meanwhile"):
        train("text-classification", data=text_rows(24), model=str(bert_folder), output=str(folder))
    assert (folder / "run.json").read_text() == "{}"
