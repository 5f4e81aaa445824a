"""Rows of texts that are read by column, which must be what is read row by row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from finetune.task_parts.columns import (
    CELLS_AT_ONCE,
    by_cell,
    cells_of,
    count_cells,
    is_plain,
    window_size,
)
from finetune.testing import check_whole_tables
from tasks import TextClassification

TEXTS = ["a word", None, "", " \t\u2003\x1c", "b", "a word", "c\x00d", "\ud7ff \ufeff"]
LABELS = ["x", "y", None, "x", " ", "x", "y", "a|b"]
KEYS: list[dict[str, Any]] = [
    {"text": "text", "label": "label", "kind": "single"},
    {"text": "text", "label": "label", "kind": "several", "delimiter": "|"},
    {"text": ["text", "other"], "label": "label", "kind": "single"},
    {"text": ["text", "other"], "join": " ", "label": "label", "kind": "single"},
    {"text": "text", "label": "number", "kind": "number"},
    {"text": "text", "label": ["one", "zero"], "kind": "several"},
]


def table() -> Dataset:
    columns = {"text": TEXTS, "other": TEXTS[::-1], "label": LABELS}
    columns |= {
        "number": [1.5, None, float("nan"), 2, 0, -1, 3, 4],
        "one": [1] * 8,
        "zero": [0] * 8,
    }
    return Dataset.from_dict(columns)


@pytest.mark.parametrize("keys", KEYS)
def test_columns_are_read_as_rows_are(keys: dict[str, Any]) -> None:
    task, rows = TextClassification(**keys), table()
    check_whole_tables(task, rows)
    check_whole_tables(task, rows.select([7, 1, 0]))
    faulty = [place for place, row in enumerate(rows) if any(task.rows.validate(row))]
    assert set(faulty) <= set(task.rows.doubtful(rows))
    counted = task.rows.count_labels(rows)
    assert counted == super(type(task.rows), task.rows).count_labels(list(rows))


def test_doubtful_rows_are_few() -> None:
    rows = TextClassification(text="text", label="label", kind="single").rows
    assert list(rows.doubtful(table())) == [1, 2, 3, 4]
    assert not rows.doubtful(table().select([0, 5, 6, 7]))
    unlabeled = table().remove_columns("label")
    assert list(rows.doubtful(unlabeled)) == [1, 2, 3]


def test_cells_of_all_windows_are_read() -> None:
    count = 2 * CELLS_AT_ONCE + 1
    features = Features(number=Value("int64"), name=ClassLabel(names=["n", "p"]))
    columns = {"number": [n // 2 for n in range(count)], "name": [n % 2 for n in range(count)]}
    rows = Dataset.from_dict(columns, features=features)
    assert list(cells_of(rows, ["number", "name"])) == [(n // 2, n % 2) for n in range(count)]
    assert count_cells(rows, "name") == {0: CELLS_AT_ONCE + 1, 1: CELLS_AT_ONCE}
    calls: list[int] = []
    doubled = by_cell(rows, "number", lambda cell: calls.append(cell) or 2 * cell)
    assert list(doubled) == [n // 2 * 2 for n in range(count)]
    assert len(calls) == CELLS_AT_ONCE + 1


def test_only_cells_that_are_the_same_in_arrow_are_plain() -> None:
    rows = Dataset(pa.table({"text": ["a"], "when": pa.array([0], pa.timestamp("s"))}))
    assert is_plain(rows, ["text"])
    assert not is_plain(rows, ["text", "when"])
    assert not is_plain(rows, ["absent"])
    assert not is_plain(rows, [])
    assert not is_plain(list(rows), ["text"])


def test_few_long_cells_are_read_at_once() -> None:
    short, long = (
        Dataset.from_dict({"text": [text] * 400}) for text in ("short", "long " * 20_000)
    )
    assert window_size(short, ["text"]) == CELLS_AT_ONCE
    assert 100 < window_size(long, ["text"]) < 200  # of 100 kB each
    assert [text for (text,) in cells_of(long, ["text"])] == long["text"][:]
    assert window_size(short.select([]), ["text"]) >= 1
