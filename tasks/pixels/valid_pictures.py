"""Pictures that were decoded without a fault before, by their content.

    <cache>/pictures/<key>   16 bytes for each picture, one after the other

Decoding every picture is most of what happens before the first step, and finds the same each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.batching.content_cache import entry_key, installed_versions, remove_unused
from finetune.io.files import cache_folder

SIZE = 16
"""Bytes of a digest."""
_DECODERS = ("pillow", "pillow-heif", "tifffile", "imagecodecs")


class ValidPictures:
    """The digests of the pictures that one way of decoding found no fault in.

    They are appended, so that runs at the same time do not disturb each other. Where the disk
    cannot be written to, pictures are decoded again the next time.
    """

    def __init__(self, folder: Path, way: Sequence[Any]) -> None:
        """Read what is known of a way of decoding: plain values, all that the result depends on."""
        self._path = folder / str(entry_key(ValidPictures, [installed_versions(*_DECODERS), *way]))
        self._known, self._new = set[bytes](), set[bytes]()
        with contextlib.suppress(OSError):
            content = self._path.read_bytes()
            os.utime(self._path)
            whole = range(0, len(content) - SIZE + 1, SIZE)
            self._known.update(content[start : start + SIZE] for start in whole)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digest: bytes) -> None:
        """Add a picture, for this process until it is saved."""
        if digest not in self._known:
            self._known.add(digest)
            self._new.add(digest)

    def save(self) -> None:
        """Append the new pictures to the file."""
        new, self._new = self._new, set()
        if not new:
            return
        with contextlib.suppress(OSError):
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                remove_unused(self._path.parent)
            with self._path.open("ab") as file:
                # What a process that was killed wrote of a digest would displace all later ones.
                file.truncate(file.tell() - file.tell() % SIZE)
                file.write(b"".join(sorted(new)))


@lru_cache(maxsize=16)
def _read(folder: Path, way: tuple[Any, ...]) -> ValidPictures:
    return ValidPictures(folder, way)


def valid_pictures(*way: Any) -> ValidPictures:
    """Return the valid pictures of a way of decoding, which are read once in a process."""
    return _read(cache_folder("pictures"), way)


def digest_of(content: str, suffix: str) -> bytes:
    """Return the digest of a picture: of the SHA-256 of its content and the suffix of its file."""
    return hashlib.blake2b(f"{content} {suffix}".encode(), digest_size=SIZE).digest()
