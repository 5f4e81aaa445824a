"""Exclusive lock of a run folder: two trainings in one folder would mix their checkpoints.

The operating system drops the lock when its owner ends, so a killed run leaves none behind. On a
file system without such locks, the file that names the owner is the lock: it is taken over once
that process has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psutil
from filelock import FileLock, Timeout

from finetune.errors import CheckpointError

LOCK, OWNER = ".lock", ".owner"
"""Files in a run folder: the lock, and the process that holds it."""
# Data-loading workers share the lock of a killed process, and end within 5 seconds after it.
ORPHANS_END = 15.0
# Time after which a file written by another process at the same moment would be seen.
SETTLE = 1.0
# The clock that a process's start is derived from may be adjusted by this many seconds.
_SAME_START = 2.0


class RunLock:
    """Lock of a run folder, held by one process for all processes of a run.

    Attributes:
        run: digest of the config and the rows of the run, which other processes may read.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder = folder
        self.run = run
        self._lock: FileLock | None = FileLock(folder / LOCK, timeout=0)
        self._creates = not folder.exists()

    def acquire(self) -> Self:
        """Take the lock, and create the folder. Raises CheckpointError if another run holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written: {error}; set output.dir to another folder"
            ) from error
        return self

    def release(self) -> None:
        """Drop the lock, and a new folder in which nothing was written."""
        with contextlib.suppress(OSError):  # the folder may be gone
            (self.folder / OWNER).unlink(missing_ok=True)
            if self._creates and {path.name for path in self.folder.iterdir()} <= {LOCK}:
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()
        if self._lock is not None:
            self._lock.release()

    def _acquire(self) -> None:
        deadline = time.monotonic() + ORPHANS_END
        while self._lock is not None:
            try:
                self._lock.acquire()
                break
            except Timeout:
                if is_running(read_owner(self.folder)) or time.monotonic() > deadline:
                    raise self._refusal() from None
                time.sleep(0.2)
            except PermissionError:
                raise
            except (OSError, NotImplementedError):  # a file system without locks
                self._lock = None
        owner = {**this_owner(), "run": self.run}
        path = self.folder / OWNER
        if self._lock is None:
            self._claim(path, owner)
        else:
            path.write_text(json.dumps(owner), encoding="utf-8")

    def _claim(self, path: Path, owner: dict[str, Any]) -> None:
        """Write the owner's file where it is the lock; of several processes the last one wins."""
        if path.exists() and is_running(read_owner(self.folder)):
            raise self._refusal()
        own = path.with_name(f"{OWNER}.{owner['token']}")
        own.write_text(json.dumps(owner), encoding="utf-8")
        own.replace(path)
        time.sleep(SETTLE)
        if read_owner(self.folder) != owner:
            raise self._refusal()

    def _refusal(self) -> CheckpointError:
        owner = read_owner(self.folder)
        words = " (process {pid} on {host}, since {since})".format(**owner) if owner else ""
        gone = f", or, if that process has ended, remove {self.folder / OWNER}"
        return CheckpointError(
            f"{self.folder}: another training is running in this folder{words}; wait for it, stop "
            "it, or choose another folder with output.dir=FOLDER"
            f"{gone if self._lock is None else ''}"
        )


def this_owner() -> dict[str, Any]:
    """Describe this process, such that another one can tell whether it still runs."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M}",
        "token": uuid4().hex[:8],
    }


def read_owner(folder: Path) -> dict[str, Any]:
    """Read which process holds a folder's lock; {} if that is not known."""
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return {"run": "", **owner} if {"host", "pid", "started", "since"} <= owner.keys() else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def is_running(owner: dict[str, Any]) -> bool:
    """False if a process of this host has ended, even if its number is in use again."""
    if not owner:
        return False
    if owner["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(owner["pid"])
        is_same = abs(process.create_time() - owner["started"]) < _SAME_START
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, TypeError, ValueError, OverflowError):
        return False
