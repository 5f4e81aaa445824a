"""A folder of this machine and its copy in an object store, which machines share without a mount.

Files are sent in the order in which they were written: one that marks others as complete is there
after them.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from finetune.errors import CheckpointError
from finetune.io.files import atomic, remove_path
from finetune.io.run_lock import LOCK, OWNER

_CHUNK = 2**22  # bytes
_Version = tuple[int, int]  # size and time of the last change of a file


class StoredFolder:
    """A folder whose files are sent to, and fetched from, a place in an object store.

    All methods raise CheckpointError if the store cannot be reached.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url.rstrip("/")
        with self._reached("reached"):
            self._store, root = fs.FileSystem.from_uri(self.url)
        self._root = root.rstrip("/")
        self._sent: dict[str, _Version] = {}
        """Files that the store has as they are here, by their path in the folder."""

    def push(self, name: str) -> None:
        """Send the changes of a file or a folder, removals included; "" is the whole folder."""
        files = {path.relative_to(self.folder).as_posix(): path for path in self._local(name)}
        versions = {key: _version(path) for key, path in files.items()}
        changed = [key for key, version in versions.items() if self._sent.get(key) != version]
        with self._reached("written"):
            for key in sorted(changed, key=lambda key: (versions[key][1], key)):
                self._send(files[key], key)
                self._sent[key] = versions[key]
            for key in [each for each in self._sent if _is_in(each, name) and each not in files]:
                self._store.delete_file(f"{self._root}/{key}")
                del self._sent[key]

    def pull(self, name: str, *, without: Sequence[str] = ()) -> bool:
        """Fetch a file or a folder in place of the one here; False if the store has none.

        Folders within it that are named in `without` are left out.
        """
        with self._reached("read"):
            keys = [
                key for key in self._remote(name) if not set(without).intersection(key.split("/"))
            ]
            if keys:
                remove_path(self.folder / name)
            for key in keys:
                self._sent[key] = self._fetch(key, self.folder / key)
        return bool(keys)

    def _local(self, name: str) -> Iterator[Path]:
        path = self.folder / name
        for each in [path] if path.is_file() else path.rglob("*"):
            is_temporary = each.name in (LOCK, OWNER) or each.name.endswith(".partial")
            if each.is_file() and not is_temporary and ".partial/" not in each.as_posix():
                yield each

    def _remote(self, name: str) -> list[str]:
        """Return the paths of the files that the store has of a file or a folder."""
        place = f"{self._root}/{name}"
        (info,) = self._store.get_file_info([place])
        if info.type is fs.FileType.File:
            return [name]
        entries = self._store.get_file_info(
            fs.FileSelector(place, recursive=True, allow_not_found=True)
        )
        files = [each.path for each in entries if each.type is fs.FileType.File]
        return sorted(path.removeprefix(f"{self._root}/") for path in files)

    def _send(self, path: Path, key: str) -> None:
        place = f"{self._root}/{key}"
        if isinstance(self._store, fs.LocalFileSystem):  # object stores have no folders
            self._store.create_dir(place.rpartition("/")[0])
        with path.open("rb") as source, self._store.open_output_stream(place) as target:
            shutil.copyfileobj(source, target, _CHUNK)

    def _fetch(self, key: str, path: Path) -> _Version:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = f"{self._root}/{key}"
        with (
            atomic(path) as partial,
            self._store.open_input_stream(place) as source,
            partial.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _CHUNK)
        return _version(path)

    @contextmanager
    def _reached(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, ImportError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"search.storage: {self.url} cannot be {verb} by the machine "
                f"{socket.gethostname()} ({reason}); correct it, or give this machine access"
            ) from error


def _version(path: Path) -> _Version:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_in(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}/")
