"""Lengths that are kept by the content of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.batching import stored_lengths
from finetune.batching.content_cache import entry_key, open_entry, store_entry
from finetune.batching.stored_lengths import recall_lengths
from finetune.task_parts.samples import Length, Lengths
from tasks import TextClassification
from tasks.text.text_views import TextViews

LENGTHS = Lengths.of([Length(3), Length(5, 2), Length(7, 0, 1)])


class Measured(TextClassification):
    """A task whose lengths depend on `facts`."""

    facts: Any = "a"

    @property
    def views(self) -> TextViews:
        return MeasuredViews(self)


class MeasuredViews(TextViews):
    def length_facts(self) -> Any:
        return getattr(self.task, "facts", None)


Measured.__module__ = TextClassification.__module__  # a task of a package, whose code is known


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored_lengths, "FEWEST_ROWS", 1)
    return tmp_path / "cache"


def recall(task: TextClassification, digest: str | None = "d", rows: int = 3) -> tuple[Any, int]:
    """Recall lengths; also return how often they were measured."""
    calls = []

    def measure() -> Lengths:
        calls.append(1)
        return LENGTHS

    return recall_lengths(task, digest, rows, measure), len(calls)


def test_recall_lengths_measures_once_for_each_content(own_cache: Path) -> None:
    assert recall(Measured()) == (LENGTHS, 1)
    known, calls = recall(Measured())
    assert calls == 0
    assert np.array_equal(known.array, LENGTHS.array)
    assert recall(Measured(), "other rows")[1] == 1
    other = Measured()
    other.facts = "b"
    assert recall(other)[1] == 1
    assert [recall(TextClassificationOfAFile(), digest)[1] for digest in ("d", "d")] == [1, 1]


class TextClassificationOfAFile(Measured):
    """A task of a module that is no package: other code that it runs is unknown."""


TextClassificationOfAFile.__module__ = "a_file"


def test_recall_lengths_measures_unknown_rows_again(own_cache: Path) -> None:
    unknown = Measured()
    unknown.facts = None
    assert [recall(unknown)[1] for _ in range(2)] == [1, 1]
    assert [recall(Measured(), None)[1] for _ in range(2)] == [1, 1]
    assert not own_cache.exists()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["lengths.safetensors", "manifest.json"])
def test_recall_lengths_measures_damaged_ones_again(
    own_cache: Path, name: str, harm: Callable[[Path], Any]
) -> None:
    recall(Measured())
    (path,) = own_cache.rglob(name)
    harm(path)
    assert recall(Measured())[1] == 1
    assert recall(Measured())[1] == 0


def test_recall_lengths_works_without_a_disk_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file" / "cache"))
    assert recall(Measured())[1] == 1


def test_store_entry_removes_entries_that_no_run_has_used(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        (folder / "x").write_text("x")

    assert store_entry("kind", "old", write)
    monkeypatch.setattr("finetune.batching.content_cache.KEPT_DAYS", -1)
    assert store_entry("kind", "new", write)
    assert open_entry("kind", "old") is None
    assert open_entry("kind", "new") is not None


def test_entry_key_depends_on_the_package_of_the_task() -> None:
    assert entry_key(TextClassification, [1]) != entry_key(TextClassification, [2])
    assert entry_key(TextClassificationOfAFile, [1]) is None
