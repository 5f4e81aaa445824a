"""Helpers for tests that push to the local hub of `hub_server`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.hub_server import Fault, at, serve_hub
from tests.support.tiny_models import text_rows

ROWS = text_rows(6, seed=3)


@contextmanager
def hub(root: Path, *faults: Fault) -> Iterator[str]:
    """Serve `root` as the hub of this process, with a token and an empty cache."""
    with serve_hub(root, *faults) as address, at(address, root):
        yield address


def written(root: Path) -> list[dict[str, Any]]:
    """Return the write requests that the hub received."""
    path = root / "requests.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def digest(folder: Path) -> dict[str, str]:
    """Return {file: sha256} of all files in a folder."""
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    assert digests
    return digests
