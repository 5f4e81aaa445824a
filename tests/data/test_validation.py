"""Rows that cannot be used are listed with their place, or left out and counted."""

from __future__ import annotations

import pytest
from datasets import Dataset

from finetune.data.validation import check_rows
from finetune.errors import DataError
from finetune.task import Task


def table(labels: list[str | None], **columns: list[str]) -> Dataset:
    texts = [f"text {number}" for number in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, **columns})


def test_check_rows_passes_good_rows_untouched(task: Task) -> None:
    rows = table(["a", "b"])
    assert check_rows("train", rows, task.rows.validate_many, "stop") == (rows, [])


def test_check_rows_lists_twenty_faults_and_counts_them_all(task: Task) -> None:
    rows = table(["bad"] * 30 + ["", "good"])
    with pytest.raises(DataError) as caught:
        check_rows("train", rows, task.rows.validate_many, "stop")
    message = str(caught.value)
    assert "train: 31 of 32 rows cannot be used" in message
    assert "train row 1: the label 'bad' is unknown" in message
    assert "train row 20:" in message and "train row 21:" not in message
    assert "and 11 more" in message
    assert "the label ... is unknown (30), the label is empty (1)" in message
    assert "data.on_error=skip" in message


def test_check_rows_names_the_file_or_the_number_in_the_file(task: Task) -> None:
    rows = table(["bad", "good"], file=["a/1.txt", "a/2.txt"])
    with pytest.raises(DataError, match=r"a/1\.txt: the label"):
        check_rows("train", rows, task.rows.validate_many, "stop")
    with pytest.raises(DataError, match="test row 17: the label"):
        check_rows("test", table(["good", "bad"]), task.rows.validate_many, "stop", numbers=[3, 17])


def test_check_rows_leaves_faults_out_under_skip(task: Task) -> None:
    rows, notes = check_rows(
        "train", table(["a", "bad", None, "b"]), task.rows.validate_many, "skip"
    )
    assert rows["label"][:] == ["a", "b"]
    assert notes == [
        "train: 2 of 4 rows left out: the label ... is unknown (1), the label is empty (1)"
    ]


def test_check_rows_refuses_a_split_of_faults_even_under_skip(task: Task) -> None:
    with pytest.raises(DataError, match="no row is left"):
        check_rows("train", table(["bad", "bad"]), task.rows.validate_many, "skip")
