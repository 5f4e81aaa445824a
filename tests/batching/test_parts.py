"""What only a task can read, and rows that training sees in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.batching.parts import PartRows, in_parts
from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.data.opening import open_rows, open_splits
from finetune.errors import DataError
from tests.support.toy import Letters, LettersConfig


def read_odd(path: Path) -> TaskTables:
    words = path.read_text().split()
    return TaskTables({"train": [{"text": word, "label": word[0]} for word in words]})


class OddConfig(LettersConfig):
    formats = (DataFormat("odd", lambda path: path.suffix == ".odd", read_odd),)


class Reading(Letters):
    """A toy whose rows may be in a file of its own kind."""

    Config = OddConfig


def test_what_the_task_can_read_it_reads(tmp_path: Path) -> None:
    (tmp_path / "a.odd").write_text("ab ba aa bb " * 5)
    (tmp_path / "b.csv").write_text("text,label\nab,a\nba,b\n")
    config = DataConfig(train=str(tmp_path / "a.odd"), validation=str(tmp_path / "b.csv"))
    splits = open_splits(config, Reading())
    assert splits.train["text"][:2] == ["ab", "ba"]
    assert splits.validation is not None
    assert splits.validation["text"][:] == ["ab", "ba"]
    rows, _ = open_rows(str(tmp_path / "a.odd"), DataConfig(format="odd"), None, OddConfig.formats)
    assert len(rows) == 20


def test_a_format_that_the_task_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.odd").write_text("ab")
    with pytest.raises(DataError, match="this task does not read data.format=yolo"):
        open_splits(DataConfig(source=str(tmp_path / "a.odd"), format="yolo"), Reading())


def test_parts_are_rows_with_the_keys_of_their_part() -> None:
    class Halves(Letters):
        @property
        def parts(self) -> Any:
            return lambda rows: [[{"half": n} for n in range(len(row["text"]))] for row in rows]

    rows = Dataset.from_list([{"text": "ab"}, {"text": ""}, {"text": "c"}])
    cut, note = in_parts(rows, Halves())
    assert isinstance(cut, PartRows)
    assert list(cut) == [
        {"text": "ab", "half": 0},
        {"text": "ab", "half": 1},
        {"text": "c", "half": 0},
    ]
    assert cut[-1] == cut[2]
    assert cut[1:] == cut.__getitems__([1, 2])
    assert note == ["train: 3 rows are seen in 3 parts"]
    assert in_parts(rows, Letters()) == (rows, [])
