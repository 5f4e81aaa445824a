"""Files of cached features: flat, memory-mapped, with checksums, and written whole or not at all.

    <cache>/<key>/  manifest.json  <name>.bin

One file per tensor [N, ...]. The manifest has the checksum of every file and its own, so that
whatever happened to a folder is noticed, and it is computed again. Arrow is not used because it has
no bfloat16.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from torch import Tensor

from finetune.config.text_files import check_regular
from finetune.distributed.launch import this_process
from finetune.errors import ModelError
from finetune.io.files import cache_folder, remove_path, sync_to_disk
from finetune.io.run_lock import OWNER, is_running, read_owner, this_owner

MANIFEST = "manifest.json"
ABSENT = "absent"
# Seconds after which an unfinished build of another host counts as killed.
ABANDONED = 7 * 24 * 3600
SECONDS_BETWEEN_LOOKS = 0.5
_CHUNK = 2**22


def cache_root() -> Path:
    """Return the folder of cached features in $FINETUNE_CACHE, by default ~/.cache/finetune."""
    return cache_folder("features")


def map_file(path: Path, dtype: str, shape: list[int], create: bool = False) -> Tensor:
    """Memory-map a tensor. All processes may create the file; each writes its own rows."""
    kind = getattr(torch, dtype)
    size = int(torch.Size(shape).numel())
    if create:
        with writing_features(path), path.open("ab") as file:
            file.truncate(size * kind.itemsize)
            if hasattr(os, "posix_fallocate"):  # to fail on a full disk here, not by SIGBUS later
                os.posix_fallocate(file.fileno(), 0, size * kind.itemsize)
    return torch.from_file(str(path), shared=create, size=size, dtype=kind).view(shape)


def open_features(folder: Path) -> dict[str, Tensor]:
    """Memory-map the features of a folder in which `find_damage` found none.

    Raises ModelError if this process does not have the folder, which the first one has checked.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except OSError as error:
        raise ModelError(
            f"{folder}: cannot read the features ({error.strerror}), which another process has "
            "written; set the environment variable FINETUNE_CACHE to one folder that all processes "
            "share, or set method.cache=off"
        ) from error
    return {
        name: map_file(folder / f"{name}.bin", facts["dtype"], facts["shape"])
        for name, facts in files.items()
    }


def find_damage(folder: Path, rows: int) -> str:
    """Return what is wrong with the features in a folder; "" if they are whole.

    Every file is read once.
    """
    if not folder.exists():
        return ABSENT
    try:
        check_regular(folder / MANIFEST)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if not files or manifest["crc32"] != _manifest_checksum(files):
            return f"{MANIFEST} does not match its checksum"
        faults = (_file_fault(folder / f"{name}.bin", facts, rows) for name, facts in files.items())
        return next(filter(None, faults), "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


_CLAIMED = threading.local()  # "folders": those that this thread builds now


@contextlib.contextmanager
def claim_features(folder: Path, rows: int) -> Iterator[tuple[str, Path]]:
    """Yield what is wrong with the features of a folder, "" for whole ones, and where to build.

    Of several runs that lack the same features, one builds them and the others wait for it. The
    first process decides for all of a run.
    """
    state, lock = this_process(), _build_lock(folder)
    held: set[Path] = _CLAIMED.__dict__.setdefault("folders", set())
    is_nested = folder in held  # a run within this build would wait for itself
    while True:
        fault, is_ours = find_damage(folder, rows) if state.is_main_process else "", True
        if fault and (is_ours := is_nested or _acquire(lock)):
            fault = find_damage(folder, rows)  # another run may have finished before that
        # A name of its own for each build: on a file system without locks, two may run at once.
        partial = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}.partial")
        fault, is_ours, partial = broadcast_object_list([fault, is_ours, partial])
        if is_ours:
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    held.add(folder)
    try:
        yield fault, partial
        if fault and state.is_main_process:
            # Whoever waits for this file finds the features whole, so it may have another one.
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        if not is_nested:
            held.discard(folder)
        lock.release()


def _build_lock(folder: Path) -> FileLock:
    with writing_features(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)


def _acquire(lock: FileLock) -> bool:
    """Take a lock; False if another run has it. Without locks on this disk, all may build."""
    try:
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError):
        pass
    return True


def begin_features(folder: Path) -> None:
    """Create the folder of an unfinished build, and remove what killed builds have left."""
    with writing_features(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.glob("*.partial"):
            _remove_abandoned(other)
        folder.mkdir()
        (folder / OWNER).write_text(json.dumps(this_owner()), encoding="utf-8")


def publish_features(partial: Path, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of complete files, and rename their folder to its final name.

    `files` are {name: {dtype, shape}}. If another run has finished the same features meanwhile,
    those are kept; damaged ones are replaced.
    """
    with writing_features(folder):
        sealed = {
            name: {**facts, "crc32": _checksum(partial / f"{name}.bin")}
            for name, facts in files.items()
        }
        manifest = {"files": sealed, "crc32": _manifest_checksum(sealed)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        (partial / OWNER).unlink()
        for path in (*partial.iterdir(), partial):
            sync_to_disk(path)
        rows = next(iter(files.values()))["shape"][0]
        while not _rename(partial, folder):
            if not find_damage(folder, rows):
                remove_path(partial)
                break
            damaged = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}.partial")
            with contextlib.suppress(FileNotFoundError):  # another run may do the same
                folder.rename(damaged)
                remove_path(damaged)
        sync_to_disk(folder.parent)


@contextlib.contextmanager
def writing_features(path: Path) -> Iterator[None]:
    """Convert an OSError to a ModelError with the remedies."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path}: cannot write the features ({error}); free some space, set the environment "
            "variable FINETUNE_CACHE to a folder on another disk, shared by all processes, or set "
            "method.cache=off"
        ) from error


def _rename(partial: Path, folder: Path) -> bool:
    """Rename a folder; False if the name is taken."""
    try:
        partial.rename(folder)
        return True
    except OSError:
        if not folder.exists():
            raise
        return False


def _file_fault(path: Path, facts: Mapping[str, Any], rows: int) -> str:
    kind, shape = getattr(torch, facts["dtype"]), torch.Size(facts["shape"])
    if shape[0] != rows or path.stat().st_size != shape.numel() * kind.itemsize:
        return f"{path.name} has another size"
    return "" if _checksum(path) == facts["crc32"] else f"{path.name} does not match its checksum"


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _manifest_checksum(files: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _remove_abandoned(partial: Path) -> None:
    with contextlib.suppress(OSError):
        owner = read_owner(partial)
        is_old = time.time() - partial.stat().st_mtime > ABANDONED
        if is_old or (owner and not is_running(owner)):
            remove_path(partial)
