"""Splits that are kept by the content of their files."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from finetune.batching.shared_rows import SharedRows
from finetune.checks import stored_splits
from finetune.checks.stored_splits import splits_key
from finetune.config.loading import load_config
from finetune.data.opening import Splits
from finetune.errors import DataError
from finetune.registry import INSTALLED, make_task
from finetune.reporting.console import Console
from finetune.training import run as engine
from finetune.training.run import read_splits


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored_splits, "FEWEST_BYTES", 1)
    return tmp_path / "cache"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng, path = random.Random(0), tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "origin"])
        for row in range(40):
            words = " ".join(f"w{rng.randrange(900)}" for _ in range(20))
            writer.writerow([words, f"class {row % 2}", row])
        writer.writerow([words, "class 0", 40])
        writer.writerow(["", "class 0", 41])
    return path


def read(path: Path, task: str = "text-classification", **keys: Any) -> tuple[Splits, Any]:
    """Read the splits of a run, and return what its task has settled."""
    given = {"task": task, "model": "m", "method": "lora"}
    given["data"] = {"source": str(path), "on_error": "skip", **keys}
    config = load_config(None, given, INSTALLED).config
    made = make_task(config.task)
    splits = read_splits(config, made, None, Console(enabled=False), SharedRows())
    return splits, made.resolved_


def contents(splits: Splits) -> Any:
    rows = {name: list(rows) for name, rows in splits.named.items()}
    numbers = {name: list(numbers) for name, numbers in splits.numbers.items()}
    return rows, numbers, splits.notes, splits.leaked, splits.digests


@pytest.mark.parametrize("keys", [{}, {"validation": 0}, {"test": 0.2, "limit": 30}])
def test_splits_of_the_same_files_are_not_checked_again(
    table: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    first, settled = read(table, **keys)
    monkeypatch.setattr(engine, "open_checked_splits", None)  # would fail if it were called
    again, settled_again = read(table, **keys)
    assert contents(again) == contents(first)
    assert settled_again == settled
    assert settled.label == "label"


def test_splits_that_were_kept_are_those_that_were_read(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = read(table)
    monkeypatch.setattr(stored_splits, "FEWEST_BYTES", 10**9)
    assert contents(read(table)[0]) == contents(kept)


def test_a_changed_file_or_key_is_read_again(table: Path, own_cache: Path) -> None:
    keys = {"data": {"source": str(table)}, "task": "text-classification", "model": "m"}
    found = set()
    for change in ({}, {"data.limit": 9}, {"task.label": "origin"}, {"data.encoding": "utf-8"}):
        config = load_config(None, keys | change, INSTALLED).config
        found.add(splits_key(config.data, make_task(config.task)))
    table.write_bytes(table.read_bytes().replace(b"w1", b"w2", 1))
    config = load_config(None, keys, INSTALLED).config
    found.add(splits_key(config.data, make_task(config.task)))
    assert len(found) == 5
    assert None not in found


def test_damaged_splits_are_read_again(table: Path, own_cache: Path) -> None:
    first, _ = read(table)
    for name in ("splits.json", "train.arrow", "validation.arrow", "manifest.json"):
        (path,) = own_cache.rglob(name)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()  # not in place: the rows of the first run are memory-mapped
        path.write_bytes(content)
        assert contents(read(table)[0]) == contents(first)


def test_invalid_rows_stop_every_run(table: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="text is empty"):
            read(table, on_error="stop")


def test_rows_that_depend_on_more_than_their_file_are_not_kept(
    table: Path, own_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "f.py").write_text("def same(row):\n    return row\n")
    read(table, map=f"{tmp_path}/f.py:same")
    folder = tmp_path / "folder"
    folder.mkdir()
    table.rename(folder / "train.csv")
    read(folder)
    assert not own_cache.exists()
