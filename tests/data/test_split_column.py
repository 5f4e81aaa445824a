"""Tables with a column that names the split of each row."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.opening import open_rows
from finetune.data.readers import Tables
from finetune.data.roles import assign_roles
from finetune.data.splits import divide_by_column


def table(name: str, values: list[str | None]) -> Tables:
    rows = {"text": [f"text {number}" for number in range(len(values))], name: values}
    return Tables({"train": Dataset.from_dict(rows)})


@pytest.mark.parametrize("name", ["split", "Subset", "partition"])
def test_divide_by_column_never_trains_on_rows_of_the_test_split(name: str) -> None:
    tables = divide_by_column(table(name, ["train", "test", "TRAIN", "val"]), "news.csv")
    texts = {split: rows["text"][:] for split, rows in tables.splits.items()}
    assert texts == {
        "train": ["text 0", "text 2"],
        "test": ["text 1"],
        "validation": ["text 3"],
    }
    assert tables.notes == [f"splits: column {name!r} of news.csv names the split of each row"]
    assert all(rows.column_names == ["text"] for rows in tables.splits.values())


def test_divide_by_column_counts_rows_without_a_split() -> None:
    tables = divide_by_column(table("split", ["train", "test", None, ""]), "news.csv")
    assert [len(rows) for rows in tables.splits.values()] == [1, 1]
    assert tables.notes[0].endswith("not read: 2 rows without a value")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train", "train"]),
        ("split", ["test", "val"]),
        ("split", ["train", "test", "left"]),
        ("split", ["a", "b"]),
        ("kind", ["train", "test"]),
    ],
)
def test_divide_by_column_keeps_tables_whose_column_is_something_else(
    name: str, values: list[str | None]
) -> None:
    tables = table(name, values)
    assert divide_by_column(tables, "news.csv") is tables


def test_open_rows_and_assign_roles_read_the_splits_of_a_column(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text("text,label,split\na,x,train\nb,y,train\nc,x,test\n")
    roles = assign_roles(DataConfig(source=str(path)))
    assert {role: rows["text"][:] for role, rows in roles.tables.items()} == {
        "train": ["a", "b"],
        "test": ["c"],
    }
    whole, _ = open_rows(str(path), DataConfig())
    test, _ = open_rows(str(path), DataConfig(), "test")
    assert (whole["text"][:], test["text"][:]) == (["a", "b", "c"], ["c"])
