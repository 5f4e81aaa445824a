"""Atomic writes of files and folders.

The content is written to a temporary path in the same folder, synced to the disk and then renamed,
so neither a reader nor a restart after a crash sees a partial file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psutil import pid_exists


def cache_folder(kind: str) -> Path:
    """Return a folder for what can be computed again: in $FINETUNE_CACHE, or ~/.cache/finetune."""
    root = os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune"
    return Path(root) / kind


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file or a folder to, and rename it to `path` at the end.

    If the block or the disk fails, the temporary path is removed and `path` remains unchanged. Of
    two processes that write `path` at once, the later one replaces what the other has completed.
    """
    _remove_leftovers(path)
    partial = partial_path(path)
    remove_path(partial)
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        remove_path(partial)
        raise


def publish(partial: Path, path: Path) -> None:
    """Sync a file or a folder to the disk, then rename it to `path`, replacing what exists."""
    for each in (*partial.rglob("*"), partial):
        sync_to_disk(each)
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)
    sync_to_disk(path.parent)


def partial_path(path: Path, pid: int | str | None = None) -> Path:
    """Return the temporary path to which a process writes a file or a folder until it is complete.

    `pid` is that of a process on this host, by default of this one.
    """
    host = zlib.crc32(socket.gethostname().encode())
    return path.with_name(f".{path.name}.{host:08x}-{pid or os.getpid()}.partial")


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this host that have ended did not complete."""
    start, end = partial_path(path, "*").name.split("*")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        pid = other.name.removeprefix(start).removesuffix(end)
        if other.name == f"{start}{pid}{end}" and pid.isdigit() and not pid_exists(int(pid)):
            remove_path(other)


def remove_path(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def file_facts(path: Path) -> dict[str, Any]:
    """Return {"bytes": size, "sha256": digest} of a file, its entry in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def has_facts(path: Path, facts: Mapping[str, Any]) -> bool:
    """True if a file has the size and the digest of its entry in a manifest."""
    return bool(path.stat().st_size == facts["bytes"] and sha256_of(path) == facts["sha256"])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drop_torn_line(path: Path) -> bytes:
    """Cut off a last line that an interruption left incomplete; return the content."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content[:whole]


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
