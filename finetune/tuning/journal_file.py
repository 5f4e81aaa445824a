"""The journal of a search, one line of JSON an entry, and the check that Optuna can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import CheckpointError
from finetune.io.files import drop_torn_line

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileOpenLock

JOURNAL = "journal.jsonl"


def open_journal(folder: Path) -> tuple[JournalStorage, JournalFileOpenLock]:
    """Open the journal in a folder; return it, and the lock of those who choose a trial.

    Raises CheckpointError for a file that is damaged, or cannot be written.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = folder / JOURNAL
    # A lock that works on network file systems, on Windows, and for several machines.
    lock = JournalFileOpenLock(str(path))
    try:
        lock.acquire()
        try:
            content = drop_torn_line(path)
        finally:
            lock.release()
        _check(path, content)
        storage = JournalStorage(JournalFileBackend(str(path), lock))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); name another folder with "
            "search.dir=FOLDER"
        ) from error
    return storage, JournalFileOpenLock(f"{path}.ask")


def _check(path: Path, content: bytes) -> None:
    for number, line in enumerate(content.split(b"\n")[:-1]):
        if not _is_entry(line, first=not number):
            raise CheckpointError(
                f"{path}: line {number + 1} is damaged, or this is not the journal of a search; "
                "restore the file, or name another folder with search.dir=FOLDER"
            )


def _is_entry(line: bytes, *, first: bool) -> bool:
    """True for a line as Optuna writes it; the first one begins the study."""
    try:
        operation = json.loads(line)["op_code"]
    except (ValueError, TypeError, KeyError):
        return False
    return operation == 0 or not first
