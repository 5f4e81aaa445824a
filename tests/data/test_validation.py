"""Validation of rows: faults are listed by row, or invalid rows are skipped and counted."""

from __future__ import annotations

import pytest
from datasets import Dataset

from finetune.data.validation import find_valid
from finetune.errors import DataError
from finetune.task import Task


def table(labels: list[str | None], **columns: list[str]) -> Dataset:
    texts = [f"text {number}" for number in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, **columns})


def test_find_valid_keeps_all_valid_rows(task: Task) -> None:
    rows = table(["a", "b"])
    valid, notes = find_valid("train", rows, task.rows.validate_many, "stop")
    assert (list(valid), notes) == ([0, 1], [])


def test_find_valid_lists_twenty_faults_and_counts_all(task: Task) -> None:
    rows = table(["bad"] * 30 + ["", "good"])
    with pytest.raises(DataError) as caught:
        find_valid("train", rows, task.rows.validate_many, "stop")
    message = str(caught.value)
    assert "train: 31 of 32 rows are invalid" in message
    assert "train row 1: the label 'bad' is unknown" in message
    assert "train row 20:" in message and "train row 21:" not in message
    assert "and 11 more" in message
    assert "the label ... is unknown (30), the label is empty (1)" in message
    assert "data.on_error=skip" in message


def test_find_valid_reports_the_file_or_the_row_number(task: Task) -> None:
    rows = table(["bad", "good"], file=["a/1.txt", "a/2.txt"])
    with pytest.raises(DataError, match=r"a/1\.txt: the label"):
        find_valid("train", rows, task.rows.validate_many, "stop")
    with pytest.raises(DataError, match="test row 17: the label"):
        find_valid("test", table(["good", "bad"]), task.rows.validate_many, "stop", numbers=[3, 17])


def test_find_valid_skips_invalid_rows_on_request(task: Task) -> None:
    kept, notes = find_valid(
        "train", table(["a", "bad", None, "b"]), task.rows.validate_many, "skip"
    )
    assert kept == [0, 3]
    assert notes == [
        "train: 2 of 4 rows skipped: the label 'bad' is unknown (1), the label is empty (1)"
    ]


def test_find_valid_rejects_a_split_without_valid_rows(task: Task) -> None:
    with pytest.raises(DataError, match="no valid row left"):
        find_valid("train", table(["bad", "bad"]), task.rows.validate_many, "skip")
