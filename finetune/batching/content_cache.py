"""Results that depend on rows alone, kept on disk by their content: checked rows, and lengths.

    <cache>/<kind>/<key>/  manifest.json ...

An entry is written whole or not at all, and its manifest has the digest of every file, so a damaged
one counts as missing. A disk that cannot be written to costs time and not the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune.io.files import atomic, cache_folder, has_facts, remove_path
from finetune.io.manifest import MANIFEST, write_manifest

KEPT_DAYS = 30
"""Days after its last use that an entry is removed, when another one is written."""
_LIBRARIES = ("datasets", "numpy", "pyarrow", "tokenizers", "transformers")


def entry_key(task_class: type, facts: Any) -> str | None:
    """Return the key of what the code of a task makes of `facts`, plain values; None if unknown.

    The code is that of the engine and of the package of the task: of a task in a file of its own,
    other files that it imports are unknown.
    """
    package = sys.modules.get(task_class.__module__.partition(".")[0])
    origin = getattr(package, "__file__", None)
    if origin is None or Path(origin).name != "__init__.py":
        return None
    engine = Path(__file__).parents[1]
    code = [_digest_sources(engine), _digest_sources(Path(origin).parent)]
    content = json.dumps([code, installed_versions(*_LIBRARIES), facts], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def open_entry(kind: str, key: str) -> Path | None:
    """Return the folder of an entry whose files are as they were written; None if there is none."""
    folder = cache_folder(kind) / key
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        is_whole = bool(files) and all(has_facts(folder / name, files[name]) for name in files)
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return folder if is_whole else None


def store_entry(kind: str, key: str, write: Callable[[Path], None]) -> Path | None:
    """Write an entry by a function that fills its folder; None if that was not possible."""
    folder = cache_folder(kind) / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_unused(folder.parent)
        with atomic(folder) as partial:
            partial.mkdir()
            write(partial)
            write_manifest(partial)
    except OSError:
        return None
    return folder


def remove_unused(root: Path) -> None:
    """Remove what was last used more than KEPT_DAYS ago from the folder of a kind of entries."""
    for entry in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > KEPT_DAYS * 24 * 3600:
                remove_path(entry)


@cache
def _digest_sources(package: Path) -> str:
    """Digest all source files of a package."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def installed_versions(*names: str) -> dict[str, str]:
    """Return the versions of libraries, of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
