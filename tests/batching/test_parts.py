"""Data formats that a task reads itself, and training on parts of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.batching.parts import PartRows, rows_at_once, split_into_parts
from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.data.opening import open_rows, open_splits
from finetune.errors import DataError
from tests.support.toy import Letters, LettersConfig


def read_odd(path: Path, config: DataConfig) -> TaskTables:
    words = path.read_text().split()
    return TaskTables({"train": [{"text": word, "label": word[0]} for word in words]})


class OddConfig(LettersConfig):
    formats = (DataFormat("odd", lambda path: path.suffix == ".odd", read_odd),)


class OddLetters(Letters):
    """A toy task that reads files in a format of its own."""

    Config = OddConfig


def test_open_splits_reads_formats_of_the_task(tmp_path: Path) -> None:
    (tmp_path / "a.odd").write_text("ab ba aa bb " * 5)
    (tmp_path / "b.csv").write_text("text,label\nab,a\nba,b\n")
    config = DataConfig(train=str(tmp_path / "a.odd"), validation=str(tmp_path / "b.csv"))
    splits = open_splits(config, OddLetters())
    assert splits.train["text"][:2] == ["ab", "ba"]
    assert splits.validation is not None
    assert splits.validation["text"][:] == ["ab", "ba"]
    rows, _ = open_rows(str(tmp_path / "a.odd"), DataConfig(format="odd"), None, OddConfig.formats)
    assert len(rows) == 20


def test_open_splits_rejects_formats_of_other_tasks(tmp_path: Path) -> None:
    (tmp_path / "a.odd").write_text("ab")
    with pytest.raises(DataError, match="this task does not read data.format=yolo"):
        open_splits(DataConfig(source=str(tmp_path / "a.odd"), format="yolo"), OddLetters())


def test_split_into_parts_adds_the_keys_of_each_part_to_its_row() -> None:
    class Halves(Letters):
        @property
        def parts(self) -> Any:
            return lambda rows: [[{"half": n} for n in range(len(row["text"]))] for row in rows]

    rows = Dataset.from_list([{"text": "ab"}, {"text": ""}, {"text": "c"}])
    parts, notes = split_into_parts(rows, Halves())
    assert isinstance(parts, PartRows)
    assert list(parts) == [
        {"text": "ab", "half": 0},
        {"text": "ab", "half": 1},
        {"text": "c", "half": 0},
    ]
    assert parts[-1] == parts[2]
    assert parts[1:] == parts.__getitems__([1, 2])
    assert list(parts.select([2, 0])) == [parts[2], parts[0]]
    assert notes == ["train: 3 rows split into 3 parts"]
    assert split_into_parts(rows, Letters()) == (rows, [])


def test_parts_read_their_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list([{"text": "a long text"}, {"text": "another"}])
    read: list[int] = []
    original = Dataset.__getitems__
    monkeypatch.setattr(
        Dataset, "__getitems__", lambda self, keys: read.extend(keys) or original(self, keys)
    )
    parts = PartRows(rows, [[{"part": n} for n in range(50)], [{"part": 0}]])
    taken = parts.__getitems__([3, 50, 4, 3])
    assert [(row["text"][:3], row["part"]) for row in taken] == [
        ("a l", 3),
        ("ano", 0),
        ("a l", 4),
        ("a l", 3),
    ]
    assert sorted(read) == [0, 1]


def test_split_into_parts_returns_rows_that_are_their_only_part() -> None:
    class Whole(Letters):
        @property
        def parts(self) -> Any:
            return lambda rows: [[{}] for _ in rows]

    rows = Dataset.from_list([{"text": "ab"}, {"text": "c"}])
    assert split_into_parts(rows, Whole()) == (rows, [])


@pytest.mark.parametrize(("measures", "count"), [(False, 1), (True, 8)])
def test_rows_at_once_is_one_where_held_out_rows_are_whole(measures: bool, count: int) -> None:
    class Halves(Letters):
        parts = staticmethod(lambda rows: [[{"half": 0}, {"half": 1}] for _ in rows])
        measures_parts = measures

    assert rows_at_once(Halves(), 8) == count
    assert rows_at_once(Letters(), 8) == 8
