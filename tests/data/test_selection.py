"""Reviewed label issues: data.drop and data.relabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_splits
from finetune.errors import DataError
from tasks import TextClassification


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [f"the year {number},{'abc'[number % 3]}" for number in range(1, 10)]
    return write(tmp_path / "data.csv", "text,label", *rows)


def opened(table: str, **keys: Any) -> Splits:
    return open_splits(DataConfig(source=table, validation=0.0, **keys), TextClassification())


def test_drop_leaves_out_the_rows_of_the_file(table: str, tmp_path: Path) -> None:
    file = write(tmp_path / "issues.csv", "rank,row,given,suggested", "1,2,c,a", "2,9,a,b")
    splits = opened(table, drop=file)
    assert [int(number) for number in splits.numbers["train"]] == [1, 3, 4, 5, 6, 7, 8]
    assert len(splits.train) == 7
    assert any("2 of 9 rows dropped" in note for note in splits.notes)


def test_drop_reads_a_list_of_numbers(table: str, tmp_path: Path) -> None:
    splits = opened(table, drop=write(tmp_path / "rows.csv", "row,note", "3,bad", "1,bad"))
    assert splits.train["text"][:2] == ["the year 2", "the year 4"]


def test_relabel_gives_the_suggested_labels(table: str, tmp_path: Path) -> None:
    lines = ["1;2;c;a", "2;9;a;", "3;4;b;b"]  # an empty suggestion keeps the label
    file = write(tmp_path / "issues.csv", "rank;row;given;suggested", *lines)
    splits = opened(table, relabel=file)
    assert splits.train["label"] == [*"baabcabca"]
    assert splits.train.column_names[:2] == ["text", "label"]
    assert any("1 of 9 rows relabeled" in note for note in splits.notes)


def test_relabel_keeps_labels_as_numbers(tmp_path: Path) -> None:
    rows = [f"the year {number},{number % 2}" for number in range(8)]
    table = write(tmp_path / "data.csv", "text,label", *rows)
    file = write(tmp_path / "issues.csv", "row,given,suggested", "1,0,1")
    cells, before = (opened(table, **keys).train for keys in ({"relabel": file}, {}))
    assert cells.features == before.features
    assert [str(cell) for cell in cells["label"]] == [*"11010101"]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["row,given,suggested", "2,a,b"], "row 2 has the label 'c', not 'a'"),
        (
            ["row,given,suggested", "12,a,b"],
            "1 of 1 lines name a row that train does not have, or one that another line names: 12;",
        ),
        (["row,given,suggested", "2,c,d"], "no row of train has the label 'd'"),
        (["number,given,suggested", "2,c,a"], "no column 'row'"),
        (["row,given", "2,c"], "no column 'suggested'"),
    ],
)
def test_relabel_refuses_a_file_of_other_rows(
    table: str, tmp_path: Path, lines: list[str], fault: str
) -> None:
    with pytest.raises(DataError, match=fault):
        opened(table, relabel=write(tmp_path / "issues.csv", *lines))


@pytest.mark.parametrize(
    ("header", "cells", "keys", "expected"),
    [
        ("text,tags", ["a|b", "b", "a|c", "c"], {"delimiter": "|"}, "a|b|c"),
        ("text,tags", ["a;b", "b", "a;c", "c"], {"delimiter": ";"}, "a;b;c"),
        ("text,a,b,c", ["1,1,0", "0,1,0", "1,0,1", "0,0,1"], {"label": ["a", "b", "c"]}, [1, 1, 1]),
    ],
)
def test_relabel_gives_several_labels(
    tmp_path: Path, header: str, cells: list[str], keys: dict[str, Any], expected: Any
) -> None:
    rows = [f"the year {number},{cell}" for number, cell in enumerate(cells * 2)]
    table = write(tmp_path / "data.csv", header, *rows)
    # The second is a set that a row has until it is relabeled, too.
    lines = ["1,a; b,a; b; c", "5,a; b,c", "2,b,a; b", "3,a; c,"]
    file = write(tmp_path / "issues.csv", "row,given,suggested", *lines)
    task = TextClassification(**{"text": "text", "label": "tags", "kind": "several", **keys})
    splits = open_splits(DataConfig(source=table, validation=0.0, relabel=file), task)
    labels = [set(task.rows.labels(row)) for row in splits.train]
    assert labels[:4] == [{"a", "b", "c"}, {"a", "b"}, {"a", "c"}, {"c"}]
    names = keys.get("label", "tags")
    row = splits.train[0]
    found = row[names] if isinstance(names, str) else [int(row[name]) for name in names]
    assert found == expected
    assert any("3 of 8 rows relabeled" in note for note in splits.notes)


def test_relabel_of_objects_is_for_rows_of_objects(table: str, tmp_path: Path) -> None:
    file = write(tmp_path / "issues.csv", "row,object,given,suggested", "2,1,c,a")
    with pytest.raises(DataError, match="rows of text-classification have no objects"):
        opened(table, relabel=file)


def test_drop_of_all_rows_is_refused(table: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", "row,note", *(f"{number},x" for number in range(1, 10)))
    with pytest.raises(DataError, match="lists all rows of train"):
        opened(table, drop=file)


def test_answers_join_train_once_and_keep_its_types(tmp_path: Path) -> None:
    rows = [f"the year {number},{number % 2}" for number in range(8)]
    table = write(tmp_path / "data.csv", "text,label", *rows)
    lines = ["5,1,the year 20", "6,,the year 21", "7, 0,the year 22", "8,1,the year 20"]
    file = write(tmp_path / "sheet.csv", "row,label,text", *lines, "9,1,the year 3")
    splits = opened(table, answers=file)
    assert splits.train["text"][8:] == ["the year 20", "the year 22"]
    assert [str(cell) for cell in splits.train["label"][8:]] == ["1", "0"]
    assert [str(number) for number in splits.numbers["train"][8:]] == [
        f"9 ({file} row 1)",
        f"11 ({file} row 3)",
    ]
    (note,) = [note for note in splits.notes if "joined" in note]
    assert note.endswith("left out: 1 without a label, 2 that a split has")


def test_answers_with_a_new_label_are_warned_of(tmp_path: Path) -> None:
    rows = [f"the year {number},{['sport', 'business'][number % 2]}" for number in range(8)]
    table = write(tmp_path / "data.csv", "text,label", *rows)
    file = write(tmp_path / "sheet.csv", "text,label", "a new text,buisness", "another,sport")
    (warning,) = [note for note in opened(table, answers=file).notes if "warning" in note]
    assert "no other row has the label 'buisness'" in warning
    assert "did you mean 'business'?" in warning


@pytest.mark.parametrize(("header", "message"), [("body,label", "text"), ("text,tag", "label")])
def test_answers_without_a_column_are_refused(
    table: str, tmp_path: Path, header: str, message: str
) -> None:
    file = write(tmp_path / "sheet.csv", header, "a new text,a")
    with pytest.raises(DataError, match=f"data.answers=.*has no column '{message}'"):
        opened(table, answers=file)


def test_answers_may_have_several_labels(tmp_path: Path) -> None:
    lines = ['{"text": "one", "label": ["a", "b"]}', '{"text": "two", "label": ["c"]}']
    table = write(tmp_path / "data.jsonl", *lines)
    file = write(tmp_path / "sheet.csv", "text,label", "three,a; c")
    assert opened(table, answers=file).train["label"][2] == ["a", "c"]


def test_answers_of_several_sheets_join_each_row_once(table: str, tmp_path: Path) -> None:
    first = write(tmp_path / "first.csv", "text,label", "one more,a")
    second = write(tmp_path / "second.csv", "text,label", "one more,b", "and another,c")
    splits = opened(table, answers=[first, second])
    assert splits.train["text"][9:] == ["one more", "and another"]
    assert len({int(number) for number in splits.numbers["train"]}) == 11
