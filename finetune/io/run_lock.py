"""Exclusive lock of a run folder: two trainings in one folder would mix their checkpoints.

The operating system drops the lock when its owner ends, so a killed run leaves none behind.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finetune.errors import CheckpointError

LOCK, OWNER = ".lock", ".owner"
"""Files in a run folder: the lock, and the process that holds it."""


@contextmanager
def lock_run(folder: Path, *, is_main: bool) -> Iterator[None]:
    """Hold the lock of a run folder; the main process holds it for all processes of a run.

    The folder is created. Raises CheckpointError, in every process, if another run holds the lock.
    """
    from accelerate.utils import broadcast_object_list  # imports torch; names of files need not

    lock = FileLock(folder / LOCK, timeout=0)
    [refusal] = broadcast_object_list([_acquire(lock, folder) if is_main else None])
    if refusal is not None:
        raise CheckpointError(refusal)
    try:
        yield
    finally:
        if is_main:
            (folder / OWNER).unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, folder: Path) -> str | None:
    """Take the lock; return the reason if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M}",
        }
        (folder / OWNER).write_text(json.dumps(owner), encoding="utf-8")
    except Timeout:
        return (
            f"{folder}: another training is running in this folder{_describe_owner(folder)}; wait "
            "for it, stop it, or choose another folder with output.dir=FOLDER"
        )
    except OSError as error:
        return f"{folder}: cannot be written: {error}; set output.dir to another folder"
    return None


def _describe_owner(folder: Path) -> str:
    try:
        owner: dict[str, Any] = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
