"""Files and folders that are there whole or not at all.

What is written goes beside its place, is synced to the disk, and then renamed: a reader never sees
half of it, and neither does a restart after a crash.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """The path at which the block writes a file or a folder, renamed to `path` when it ends.

    If the block fails, or the disk does, nothing is left of it and `path` is as it was.
    """
    beside = partial_path(path)
    remove(beside)
    try:
        yield beside
        publish(beside, path)
    except BaseException:
        remove(beside)
        raise


def publish(beside: Path, path: Path) -> None:
    """Sync a file or a folder to the disk, then rename it to `path`, in place of what is there."""
    for each in (*beside.rglob("*"), beside):
        sync(each)
    if path.is_dir():
        shutil.rmtree(path)
    beside.replace(path)
    sync(path.parent)


def partial_path(path: Path) -> Path:
    """Where a file or a folder is written until it is whole."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def sync(path: Path) -> None:
    """Ask the disk to hold what was written to a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows syncs no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
