"""The checks before training, and data.on_leak."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from finetune.checks import before_training
from finetune.checks.before_training import open_checked_splits
from finetune.config.schema import DataConfig
from finetune.data.opening import Splits
from finetune.errors import DataError
from tasks import TextClassification

Rows = list[dict[str, Any]]


@pytest.fixture
def train() -> Rows:
    rng = random.Random(0)
    return [
        {"text": " ".join(f"w{rng.randrange(900)}" for _ in range(30)), "label": "ab"[index % 2]}
        for index in range(60)
    ]


def opened(train: Rows, test: Rows, **keys: Any) -> Splits:
    data = DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test))
    return open_checked_splits(DataConfig(**keys), TextClassification(), data)


def leaking(train: Rows) -> Rows:
    """Rows to test on: the first is equal to one of train, the second nearly, the third is new."""
    return [
        train[5],
        {"text": train[6]["text"] + " end", "label": "b"},
        {"text": "quite another text", "label": "a"},
    ]


def warnings(splits: Splits) -> list[str]:
    return [note for note in splits.notes if note.startswith("warning: ")]


def test_leaks_are_said_once_each_and_change_no_row(train: Rows) -> None:
    splits = opened(train, leaking(train))
    equal, near = warnings(splits)
    assert "1 of 3 test rows also occur in train" in equal
    assert "1 of 3 test rows are nearly equal to one of train, 1 of them with another label" in near
    assert len(splits.train) == 60


def test_on_leak_drop_leaves_rows_out_of_train(train: Rows) -> None:
    splits = opened(train, leaking(train), on_leak="drop")
    assert warnings(splits) == []
    assert any("2 of 60 rows left out" in note for note in splits.notes)
    assert len(splits.train) == 58
    assert len(splits.test or []) == 3
    assert list(splits.numbers["train"])[4:7] == [5, 8, 9]


def test_on_leak_stop_lists_them(train: Rows) -> None:
    with pytest.raises(DataError, match=r"2 of 3 test rows also occur in train \(1 equal, 1 near"):
        opened(train, leaking(train), on_leak="stop")
    assert len(opened(train, leaking(train)[2:], on_leak="stop").train) == 60


def test_on_leak_drop_of_all_rows_is_refused(train: Rows) -> None:
    with pytest.raises(DataError, match="all 2 train rows occur in a held-out split"):
        opened(train[:2], train, on_leak="drop")


def test_large_data_are_compared_only_on_request(
    train: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(before_training, "MOST_CHARACTERS", 1000)
    (note,) = [n for n in opened(train, leaking(train)).notes if n.startswith("near duplicates")]
    assert note.startswith("near duplicates: not searched, ")
    assert len(opened(train, leaking(train), on_leak="drop").train) == 58


def test_ids_that_are_read_as_text_are_a_warning(train: Rows) -> None:
    rows = [{"text": f"row-{index}", "label": row["label"]} for index, row in enumerate(train)]
    assert "column text is read as text, but holds ids" in warnings(opened(rows, rows[:1]))[-1]
