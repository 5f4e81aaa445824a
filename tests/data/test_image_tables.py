"""Tables that name images: endings, roots, foreign paths, and data.images."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.data.readers import Tables, from_object, read_reference
from finetune.data.source import Source
from finetune.errors import DataError
from finetune.inference.prediction_inputs import open_inputs
from finetune.reporting.console import Console
from tasks.text_classification import TextClassification


def fill(root: Path, *names: str, **tables: str) -> Path:
    """Create empty images, and tables whose lines are divided by blanks: train="id,label 1,a"."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for name, text in tables.items():
        (root / f"{name}.csv").write_text("\n".join(text.split(" ")) + "\n")
    return root


def read_auto(path: Path, **keys: object) -> Tables:
    return read_reference(str(path), DataConfig.model_validate(keys))


def files(tables: Tables, column: str, root: Path, split: str = "train") -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in tables.splits[split][column]]


@pytest.mark.parametrize("folder", ["train", "train_images", "train-jpg", "images", "pics/pics"])
@pytest.mark.parametrize("source", ["", "train.csv"])
def test_ids_without_ending_are_found_in_a_folder_beside_the_table(
    tmp_path: Path, folder: str, source: str
) -> None:
    fill(tmp_path, f"{folder}/001.jpg", f"{folder}/002.png", train="id,label 001,0 002,1")
    tables = read_auto(tmp_path / source)
    assert files(tables, "id", tmp_path) == [f"{folder}/001.jpg", f"{folder}/002.png"]
    assert tables.splits["train"]["label"][:] == ["0", "1"]
    assert any(
        "without their file endings" in note and "2 of 2 found" in note for note in tables.notes
    )


def test_names_are_found_in_a_folder_beside_the_table(tmp_path: Path) -> None:
    fill(
        tmp_path, "train_images/1.jpg", "train_images/9.jpg", train="image_id,label 1.jpg,a 2.jpg,b"
    )
    tables = read_auto(tmp_path)
    assert files(tables, "image_id", tmp_path) == ["train_images/1.jpg", "train_images/2.jpg"]
    assert any("1 of 2 found" in note for note in tables.notes)
    assert any(note.startswith("not read: 1 image ") and "9.jpg" in note for note in tables.notes)


def test_table_labels_the_flat_images_of_train(tmp_path: Path) -> None:
    submission = {"sample_submission": "id,breed c,pug"}
    fill(
        tmp_path,
        "train/a.jpg",
        "train/b.jpg",
        "test/c.jpg",
        labels="id,breed a,pug b,boxer",
        **submission,
    )
    tables = read_auto(tmp_path)
    assert files(tables, "id", tmp_path) == ["train/a.jpg", "train/b.jpg"]
    assert tables.splits["test"].column_names == ["image", "file"]
    assert any("sample_submission.csv" in note for note in tables.notes)


def test_held_out_table_finds_its_own_images(tmp_path: Path) -> None:
    names = ["train/1.jpg", "train/2.jpg", "test/1.jpg"]
    fill(tmp_path, *names, train="id,label 1,a 2,b", test="id 1")
    tables = read_auto(tmp_path)
    assert files(tables, "id", tmp_path) == ["train/1.jpg", "train/2.jpg"]
    assert files(tables, "id", tmp_path, "test") == ["test/1.jpg"]


def test_images_may_be_in_several_folders(tmp_path: Path) -> None:
    fill(tmp_path, "part_1/I1.jpg", "part_2/I2.jpg", meta="image_id,dx I1,nv I2,mel")
    tables = read_auto(tmp_path)
    assert files(tables, "image_id", tmp_path) == ["part_1/I1.jpg", "part_2/I2.jpg"]


def test_images_of_the_same_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/1.jpg", table="id,label 1,x 1,y")
    with pytest.raises(
        DataError, match=r"'1' is an image in .*a and in .*b; choose .*data\.images="
    ):
        read_auto(tmp_path / "table.csv")
    chosen = read_auto(tmp_path / "table.csv", images="b")
    assert files(chosen, "id", tmp_path) == ["b/1.jpg", "b/1.jpg"]
    assert files(read_auto(tmp_path / "table.csv", images=str(tmp_path / "a")), "id", tmp_path)


def test_data_images_must_be_a_folder_that_holds_the_images(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg", table="image,label 1.jpg,x 1.jpg,y")
    with pytest.raises(DataError, match=r"data\.images=c: no such folder"):
        read_auto(tmp_path / "table.csv", images="c")
    with pytest.raises(DataError, match=r"data\.images=b: none of the images .*'1\.jpg'"):
        read_auto(tmp_path / "table.csv", images="b")
    with pytest.raises(DataError, match=r"data\.images=b: .*is not a table"):
        read_auto(tmp_path / "a", images="b")


@pytest.mark.parametrize("prefix", ["/home/other/x/", "C:\\data\\", "data\\far\\"])
def test_foreign_paths_are_found_by_their_ends(tmp_path: Path, prefix: str) -> None:
    slash = "\\" if "\\" in prefix else "/"
    lines = [f"{prefix}images{slash}{number}.jpg,x" for number in (1, 2)]
    fill(
        tmp_path,
        "images/1.jpg",
        "images/2.jpg",
        "far/3.jpg",
        table=" ".join(["image,label", *lines]),
    )
    tables = read_auto(tmp_path / "table.csv")
    assert files(tables, "image", tmp_path) == ["images/1.jpg", "images/2.jpg"]
    assert "which is not here; 2 of 2 images found by the ends of their paths" in tables.notes[0]


def test_foreign_paths_with_an_ambiguous_end_are_left_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/1.jpg", table="image,label /home/o/1.jpg,x")
    assert read_auto(tmp_path / "table.csv").splits["train"]["image"][:] == ["/home/o/1.jpg"]


def test_backslashes_and_case_of_endings_do_not_matter(tmp_path: Path) -> None:
    fill(tmp_path, "images/1.JPG", table="image,label images\\1.jpg,x")
    assert files(read_auto(tmp_path / "table.csv"), "image", tmp_path) == ["images/1.JPG"]


def test_label_columns_that_look_like_file_names_are_not_taken_for_ids(tmp_path: Path) -> None:
    fill(tmp_path, "0.jpg", "1.jpg", "2.jpg", table="id,label 0,1 1,0 2,1")
    rows = read_auto(tmp_path / "table.csv").splits["train"]
    assert rows["label"][:] == ["1", "0", "1"]
    assert [Path(path).name for path in rows["id"]] == ["0.jpg", "1.jpg", "2.jpg"]


def test_table_of_texts_beside_images_keeps_its_columns(tmp_path: Path) -> None:
    fill(tmp_path, "cat.jpg", table="text,label a-word,cat b-word,cat c-word,dog")
    assert read_auto(tmp_path / "table.csv").splits["train"]["label"][:] == ["cat", "cat", "dog"]


def test_columns_of_images_and_masks_find_their_own_folders(tmp_path: Path) -> None:
    names = ["images/1.png", "masks/1.png"]
    fill(tmp_path, *names, table="image,mask 1.png,1.png")
    tables = read_auto(tmp_path / "table.csv")
    assert files(tables, "image", tmp_path) == ["images/1.png"]
    assert files(tables, "mask", tmp_path) == ["masks/1.png"]


def test_long_texts_are_neither_ids_nor_paths(tmp_path: Path) -> None:
    long = "a/" + "b" * 5000
    fill(tmp_path, "images/1.jpg", ids=f"id,label {long},x b,y", paths=f"image,label {long}.jpg,x")
    assert read_auto(tmp_path / "ids.csv").splits["train"]["id"][:] == [long, "b"]
    assert read_auto(tmp_path / "paths.csv").splits["train"]["image"][0].endswith("b.jpg")


def test_rows_made_in_python_take_their_images_from_data_images(tmp_path: Path) -> None:
    fill(tmp_path, "images/1.jpg", "images/2.png")
    rows = [{"id": 1, "label": "a"}, {"id": 2, "label": "b"}]
    tables = from_object(rows, DataConfig(images=str(tmp_path / "images")))
    assert files(tables, "id", tmp_path) == ["images/1.jpg", "images/2.png"]
    assert from_object(rows, DataConfig()).splits["train"]["id"][:] == [1, 2]


def test_table_of_short_texts_beside_an_image_of_that_name_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\nc,x\n")
    rows = read_reference(str(tmp_path / "rows.csv"), DataConfig()).splits["train"]
    assert rows["text"][:] == ["a", "b", "c"]


def test_text_tasks_leave_the_cells_that_name_images_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, "photos/1.jpg", rows="id,photo,text,label 1,1.jpg,good,a 2,1.jpg,bad,b")
    path, task = str(tmp_path / "rows.csv"), TextClassification(text="text", label="label")
    trained = open_splits(DataConfig(source=path, validation=0), task).train
    predicted = [each.row for each in open_inputs(Source(path), task, Console()).rows]
    assert [(row["id"], row["photo"]) for row in trained] == [("1", "1.jpg"), ("2", "1.jpg")]
    assert predicted == list(trained)
