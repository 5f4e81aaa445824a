"""Reading of folders, patterns and tables of image files, without decoding."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import open_rows
from finetune.data.readers import Tables, from_object, read_reference
from finetune.errors import DataError


def touch(path: Path) -> Path:
    """Create an empty file; its content is not read in these tests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def read_auto(path: Path | str, **keys: str) -> Tables:
    return read_reference(str(path), DataConfig(**keys))


def test_image_folder_gives_image_label_and_file_in_name_order(tmp_path: Path) -> None:
    for name in ("dog/2.PNG", "cat/b.jpg", "cat/a.jpeg", "dog/far/1.webp", "dog/notes.md"):
        touch(tmp_path / name)
    tables = read_auto(tmp_path)
    rows = list(tables.splits["train"])
    assert [row["file"] for row in rows] == [
        "cat/a.jpeg",
        "cat/b.jpg",
        "dog/2.PNG",
        "dog/far/1.webp",
    ]
    assert [row["label"] for row in rows] == ["cat", "cat", "dog", "dog"]
    assert all(row["image"] == (tmp_path / row["file"]).as_posix() for row in rows)
    assert "that are not data, ignored: 1 (dog/notes.md)" in tables.notes[0]


@pytest.mark.parametrize("form", ["auto", "image-folder"])
def test_image_folder_reads_splits(tmp_path: Path, form: str) -> None:
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "test/dog/3.jpg"):
        touch(tmp_path / name)
    splits = read_auto(tmp_path, format=form).splits
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert splits["test"][0]["label"] == "dog"


def test_image_folder_may_have_classes_with_names_of_splits(tmp_path: Path) -> None:
    for name in ("test/1.jpg", "exam/1.jpg"):
        touch(tmp_path / name)
    assert set(read_auto(tmp_path).splits["train"]["label"]) == {"test", "exam"}


def test_image_folder_without_classes_gives_no_label(tmp_path: Path) -> None:
    touch(tmp_path / "1.jpg")
    rows, _ = open_rows(str(tmp_path), DataConfig())
    assert rows.column_names == ["image", "file"]
    touch(tmp_path / "cat" / "2.jpg")
    with pytest.raises(DataError, match=r"images outside the class folders: 1, such as 1\.jpg"):
        read_auto(tmp_path)


def test_read_image_files_reads_a_file_or_a_pattern(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.txt"):
        touch(tmp_path / name)
    assert read_auto(tmp_path / "a.jpg").splits["train"]["file"][:] == ["a.jpg"]
    assert len(read_auto(tmp_path / "*").splits["train"]) == 2
    with pytest.raises(
        DataError, match=r"no image matches this pattern \(other files that do: 1\)"
    ):
        read_auto(tmp_path / "*.txt")


def test_folder_with_as_many_texts_as_images_needs_a_format(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/1.txt"):
        touch(tmp_path / name)
    with pytest.raises(DataError, match="format=text-folder or data.format=image-folder"):
        read_auto(tmp_path)
    assert "image" in read_auto(tmp_path, format="image-folder").splits["train"].column_names
    assert "text" in read_auto(tmp_path, format="text-folder").splits["train"].column_names


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_complete_paths_resolves_paths_relative_to_the_table(tmp_path: Path, form: str) -> None:
    touch(tmp_path / "pictures" / "1.jpg")
    paths = ["pictures/1.jpg", "/far/2.jpg", "https://example.org/3.jpg"]
    table = datasets.Dataset.from_dict({"picture": paths, "label": ["a", "b", "c"]})
    path = tmp_path / f"rows.{form}"
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[form](str(path))
    rows = read_auto(path).splits["train"]
    assert rows.column_names == ["picture", "label"]
    assert rows["picture"][:] == [(tmp_path / paths[0]).as_posix(), *paths[1:]]
    assert rows["label"][:] == ["a", "b", "c"]


def test_complete_paths_keeps_paths_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "1.jpg")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "rows.csv").write_text("image,label\n1.jpg,a\n")
    monkeypatch.chdir(tmp_path)
    rows = read_auto(Path("tables") / "rows.csv").splits["train"]
    assert rows["image"][:] == ["1.jpg"]
    assert os.path.isfile(rows["image"][0])


def test_complete_paths_keeps_columns_of_other_texts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nlook at cat.jpg now,a\ncat.jpg,b\n")
    rows = read_auto(tmp_path / "rows.csv").splits["train"]
    assert rows["text"][:] == ["look at cat.jpg now", "cat.jpg"]


def test_disable_image_decoding_keeps_the_bytes_of_broken_images(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    broken = {"image": [{"bytes": b"broken", "path": None}], "label": ["a"]}
    rows = datasets.Dataset.from_dict(broken, features=features)
    assert from_object(rows, DataConfig()).splits["train"][0]["image"]["bytes"] == b"broken"
    made = from_object([{"image": Image.new("RGB", (2, 2)), "label": "a"}], DataConfig())
    assert made.splits["train"][0]["image"]["bytes"].startswith(b"\x89PNG")
    rows.save_to_disk(str(tmp_path / "saved"))
    assert read_auto(tmp_path / "saved").splits["train"][0]["image"]["bytes"] == b"broken"


def test_is_pattern_is_false_for_existing_files_with_brackets(tmp_path: Path) -> None:
    touch(tmp_path / "cat[1].jpg")
    (tmp_path / "news[1].csv").write_text("text,label\na,b\n")
    assert len(read_auto(tmp_path / "cat[1].jpg").splits["train"]) == 1
    assert read_auto(tmp_path / "news[1].csv").splits["train"][0] == {"text": "a", "label": "b"}
