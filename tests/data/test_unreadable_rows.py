"""Lines of a file that are not rows: they keep their places, or their numbers if they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.schema import DataConfig
from finetune.data.opening import open_numbered_rows, open_splits
from finetune.errors import DataError
from finetune.tables.faults import UNREADABLE
from tasks import TextClassification

GOOD = "".join(f"a good row {i},{'ab'[i % 2]}\n" for i in range(6))
CASES = {
    "too many cells": ("text,label\none,a\ntwo,b,c\nthree,b\n", "t.csv", ["line 3: 3 cells"]),
    "a header": ("text,label\none,a\ntext,label\nthree,b\n", "t.csv", ["line 3: repeats"]),
    "a quote to the end": (
        f'text,label\n{GOOD}"open,a\nswallowed,b\nswallowed,a\n',
        "t.csv",
        ["line 8: opens a quote"] * 3,
    ),
    "a quote over lines": (
        f'text,label\n{GOOD}"open,a\nswallowed,b\nswallowed,a\nuntil" here,b\n{GOOD}',
        "t.csv",
        ["line 8: opens a quote"] * 4,
    ),
    "no JSON": ('{"text": "one"}\n{"text"\n{"text": "three"}\n', "t.jsonl", ["line 2: invalid"]),
    "a list": ('{"text": "one"}\n[1]\n{"text": "three"}\n', "t.jsonl", ["line 2: is '[1]'"]),
}


@pytest.mark.parametrize("case", CASES)
def test_unreadable_lines_keep_their_places(case: str, tmp_path: Path) -> None:
    content, name, reasons = CASES[case]
    path = tmp_path / name
    path.write_text(content)
    rows, _, numbers = open_numbered_rows(str(path), DataConfig(), keeps_unreadable=True)
    lines = content.splitlines()
    assert len(rows) == len(lines) - name.endswith(".csv")
    assert list(numbers) == list(range(1, len(rows) + 1))
    found = [reason for reason in rows[UNREADABLE] if reason]
    assert len(found) == len(reasons)
    assert all(map(str.startswith, found, reasons)), found
    texts = rows["text"]
    for place, reason in enumerate(rows[UNREADABLE]):
        assert (texts[place] is None) == bool(reason)
        assert reason or texts[place] in lines[place + name.endswith(".csv")]


def test_blank_lines_of_a_single_column_keep_their_places(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('text\nfirst\n\n"third\n\nparagraph"\n\n')
    rows, _, _ = open_numbered_rows(str(path), DataConfig(), keeps_unreadable=True)
    assert rows["text"] == ["first", "", "third\n\nparagraph"]


def test_skipped_lines_count_for_the_numbers_of_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a\ntwo,b,c\nthree,b\nfour,a\n")
    rows, notes, numbers = open_numbered_rows(str(path), DataConfig(on_error="skip"))
    assert (rows["text"], list(numbers)) == (["one", "three", "four"], [1, 3, 4])
    assert any("1 of 4 rows skipped: 3 cells, but the header" in note for note in notes)
    splits = open_splits(
        DataConfig(source=str(path), on_error="skip", validation=0), TextClassification()
    )
    assert splits.train["text"] == ["one", "three", "four"]
    assert splits.train.column_names == ["text", "label"]


def test_functions_of_rows_do_not_see_unreadable_lines(tmp_path: Path) -> None:
    path, code = tmp_path / "rows.csv", tmp_path / "shout.py"
    path.write_text("text\none\ntwo,2\nthree\n")
    code.write_text("def shout(row):\n    return {'text': row['text'].upper()}\n")
    config = DataConfig(map=f"{code}:shout")
    rows, _, numbers = open_numbered_rows(str(path), config, keeps_unreadable=True)
    assert rows["text"] == ["ONE", None, "THREE"]
    assert list(numbers) == [1, 2, 3]


def test_rows_of_several_files_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.csv").write_text("text,label\none,a\ntwo,b,c\nthree,b\n")
    (tmp_path / "train" / "b.csv").write_text("text,label\nfour,a\nfive,b\n")
    source, keys = str(tmp_path), {"on_error": "skip"}
    rows, notes, numbers = open_numbered_rows(source, DataConfig(**keys))
    assert rows.column_names == ["text", "label"]
    assert list(zip(rows["text"], map(str, numbers), strict=True)) == [
        ("one", "1 (a.csv row 1)"),
        ("three", "3 (a.csv row 3)"),
        ("four", "4 (b.csv row 1)"),
        ("five", "5 (b.csv row 2)"),
    ]
    assert "1 of 5 rows skipped: 3 cells" in notes[-1]
    config = DataConfig(source=source, validation=0.5, **keys)
    splits = open_splits(config, TextClassification())
    for name, rows in splits.named.items():
        texts = dict(zip(map(int, splits.numbers[name]), rows["text"], strict=True))
        assert texts.items() <= {1: "one", 3: "three", 4: "four", 5: "five"}.items()
    (tmp_path / "train" / "b.csv").write_text("text,label\nfour,a\n,b\n")
    with pytest.raises(DataError, match=r"train row 4 \(b.csv row 2\): text is empty"):
        (tmp_path / "train" / "a.csv").write_text("text,label\none,a\nthree,b\n")
        open_splits(DataConfig(source=source), TextClassification())
