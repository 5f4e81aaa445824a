"""Kinds of damage to a file: what a power cut, a full disk or another program may leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Change = Callable[[Path], None]


def _text(text: str) -> Change:
    return lambda path: _replace(path, text.encode())


def _replace(path: Path, content: bytes) -> None:
    _remove(path)
    path.write_bytes(content)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    _replace(path, content[: len(content) // 2])


def _tear(path: Path) -> None:
    """Cut off the last bytes, as of a line that was not written whole."""
    _replace(path, path.read_bytes()[:-7])


def _append_nuls(path: Path) -> None:
    _replace(path, path.read_bytes()[:-5] + bytes(300))


def _make_folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _make_fifo(path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


def _link(target: str) -> Change:
    def change(path: Path) -> None:
        _remove(path)
        path.symlink_to(target)

    return change


def _values(replacement: Any, *, deep: bool) -> Change:
    """Replace the values of a file of JSON or YAML, keeping its keys: at the top, or all leaves."""

    def change(path: Path) -> None:
        # YAML includes JSON.
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        spoiled = [_spoil(yaml.safe_load(text), replacement, deep=deep) for text in texts]
        _replace(path, "".join(json.dumps(value) + "\n" for value in spoiled).encode())

    return change


def _spoil(value: Any, replacement: Any, *, deep: bool) -> Any:
    if not isinstance(value, dict):
        return replacement
    if not deep:
        return dict.fromkeys(value, replacement)
    return {key: _spoil(each, replacement, deep=True) for key, each in value.items()}


BYTES: dict[str, Change] = {
    "missing": _remove,
    "empty": _text(""),
    "nuls": lambda path: _replace(path, bytes(path.stat().st_size)),
    "nuls at the end": _append_nuls,
    "torn": _tear,
    "truncated": _truncate,
    "binary": lambda path: _replace(path, random.Random(0).randbytes(5000)),
    "latin-1": lambda path: _replace(path, b'{"step": "\xe9"}\n'),
    "utf-16": lambda path: _replace(path, '{"step": 1}\n'.encode("utf-16")),
    "a folder": _make_folder,
    "a pipe": _make_fifo,
    "a device": _link("/dev/zero"),
    "a terminal": _link("/dev/tty"),
    "a broken link": _link("nowhere"),
    "a circle of links": lambda path: _link(path.name)(path),
}
JSON: dict[str, Change] = {
    "list": _text("[1, 2]\n"),
    "string": _text('"text"\n'),
    "number": _text("5\n"),
    "null": _text("null\n"),
    "empty object": _text("{}\n"),
    "nested": _text("[" * 10_000 + "]" * 10_000 + "\n"),
    "nested objects": _text('{"a":' * 10_000 + "1" + "}" * 10_000 + "\n"),
    "NaN": _text("NaN\n"),
    "long number": _text("9" * 5000 + "\n"),
    "foreign": _text('{"step": 1, "metrics": {"a": 1}, "given": 1, "name": "x"}\n'),
    "values are lists": _values([], deep=False),
    "values are text": _values("text", deep=False),
    "values are null": _values(None, deep=False),
    "values are NaN": _values(float("nan"), deep=False),
    "leaves are lists": _values([1], deep=True),
    "leaves are text": _values("text", deep=True),
    "leaves are null": _values(None, deep=True),
    "leaves are objects": _values({"a": 1}, deep=True),
    "leaves are infinite": _values(float("inf"), deep=True),
    "leaves are large": _values(10**400, deep=True),
    "leaves are negative": _values(-1, deep=True),
}
