"""The lock of a run folder: one training at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.api import train
from finetune.errors import CheckpointError
from finetune.io import run_lock
from finetune.io.run_lock import LOCK, OWNER, RunLock, this_owner
from tests.support.tiny_models import text_rows

HOLDER = """
import os, sys, time
from pathlib import Path
from finetune.io.run_lock import RunLock
lock = RunLock(Path(sys.argv[1])).acquire()
if sys.argv[2:] and os.fork() == 0:  # a data-loading worker, which outlives its parent
    time.sleep(2)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""
RUNNING = "another training is running in this folder"


def hold(folder: Path, *words: str) -> Any:
    command = [sys.executable, "-c", HOLDER, str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: Any) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the lock of tmp_path/run."""
    process = hold(tmp_path / "run")
    yield process
    end(process)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, such as some network file systems."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(run_lock, "SETTLE", 0.05)


def test_lock_names_the_owner_and_is_free_once_its_owner_is_killed(
    holder: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    owner = rf"{RUNNING} \(process {holder.pid} on .*since .*output.dir"
    with pytest.raises(CheckpointError, match=owner):
        RunLock(folder).acquire()
    end(holder)
    assert (folder / OWNER).exists()  # left by the killed process
    lock = RunLock(folder).acquire()
    assert str(os.getpid()) in (folder / OWNER).read_text()
    lock.release()
    assert not (folder / OWNER).exists()


def test_lock_waits_for_the_workers_of_a_killed_owner(tmp_path: Path) -> None:
    end(hold(tmp_path / "run", "with a worker"))
    start = time.monotonic()
    RunLock(tmp_path / "run").acquire().release()
    assert time.monotonic() - start < run_lock.ORPHANS_END


def test_lock_removes_a_new_folder_in_which_nothing_was_written(tmp_path: Path) -> None:
    RunLock(tmp_path / "new").acquire().release()
    assert not (tmp_path / "new").exists()
    lock = RunLock(tmp_path / "run").acquire()
    (tmp_path / "run" / "run.json").write_text("{}")
    lock.release()
    assert (tmp_path / "run" / "run.json").exists()


def owners(tmp_path: Path) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return {case: (owner, True if its process has ended)}."""
    own = this_owner()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return {
        "running": (own, False),
        "ended": (own | {"pid": gone.pid}, True),
        "number in use again": (own | {"started": own["started"] - 1000}, True),
        "other host": (own | {"host": "elsewhere", "pid": gone.pid}, False),
        "damaged": ({"pid": "x"}, True),
        "wrong types": (own | {"pid": "x", "started": None}, True),
    }


def test_lock_without_locks_of_the_file_system_looks_at_its_owner(
    no_flock: None, tmp_path: Path
) -> None:
    for case, (owner, has_ended) in owners(tmp_path).items():
        folder = tmp_path / case
        folder.mkdir()
        (folder / OWNER).write_text(json.dumps(owner))
        if has_ended:
            RunLock(folder).acquire().release()
            assert not (folder / OWNER).exists()
            continue
        with pytest.raises(CheckpointError, match=rf"{RUNNING}.*ended, remove .*{OWNER}"):
            RunLock(folder).acquire()


def test_lock_without_locks_of_the_file_system_excludes_another_process(
    no_flock: None, holder: Any, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=RUNNING):
        RunLock(tmp_path / "run").acquire()
    psutil.Process(holder.pid).kill()  # not waited for: a zombie has ended, too
    time.sleep(0.5)
    RunLock(tmp_path / "run").acquire().release()


def test_train_refuses_a_folder_in_which_another_training_runs(
    holder: Any, tmp_path: Path, bert_folder: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(CheckpointError, match=RUNNING):
        train("text-classification", data=text_rows(24), model=str(bert_folder), output=str(folder))
    assert {path.name for path in folder.iterdir()} == {LOCK, OWNER}
