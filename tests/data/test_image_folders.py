"""Reading of folders of images: splits by their usual names, classes, what is neither."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from finetune.config.schema import DataConfig
from finetune.data.readers import Tables, read_reference
from finetune.errors import DataError


def fill(root: Path, names: Iterable[str]) -> Path:
    """Create empty files; nothing is decoded in these tests."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def class_files(folder: str, classes: str = "cat dog") -> list[str]:
    return [f"{folder}/{name}/{number}.jpg" for name in classes.split() for number in range(2)]


def read_auto(path: Path, **keys: object) -> Tables:
    return read_reference(str(path), DataConfig.model_validate(keys))


def labels(tables: Tables) -> dict[str, list[str]]:
    """Return the classes of each split; [] for a split without labels."""
    return {
        name: sorted(set(rows["label"])) if "label" in rows.column_names else []
        for name, rows in tables.splits.items()
    }


PETS = ["cat", "dog"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("TRAIN", "Test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("shapes/train", "shapes/test"),
        ("archive/archive/Training", "archive/archive/Testing"),
        ("images/train", "images/test"),
        ("dataset/training_set/training_set", "dataset/test_set/test_set"),
        ("train_images", "test_images"),
    ],
)
def test_split_folders_are_found_by_usual_names_at_two_levels(
    tmp_path: Path, train: str, test: str
) -> None:
    fill(tmp_path, [*class_files(train), *class_files(test)])
    assert labels(read_auto(tmp_path)) == {"train": PETS, "test": PETS}


def test_folders_beside_splits_are_named_as_not_read(tmp_path: Path) -> None:
    fill(tmp_path, [*class_files("seg_train"), *class_files("seg_test"), "seg_pred/1.jpg"])
    tables = read_auto(tmp_path)
    assert labels(tables) == {"train": PETS, "test": PETS}
    assert any(
        "that are not data, ignored: 1" in note and "seg_pred" in note for note in tables.notes
    )


def test_class_folders_may_contain_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, [f"{name}/{split}/1.jpg" for name in PETS for split in ("train", "val")])
    tables = read_auto(tmp_path)
    assert labels(tables) == {"train": PETS, "validation": PETS}
    assert tables.splits["train"][0]["file"] == "cat/train/1.jpg"


def test_folder_of_several_datasets_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [*class_files("a/train"), *class_files("b/train")])
    with pytest.raises(DataError, match=r"several datasets.*\(a, b\); choose one.*data\.source="):
        read_auto(tmp_path)


def test_class_called_train_beside_other_classes_is_in_doubt(tmp_path: Path) -> None:
    fill(tmp_path, ["bus/1.jpg", "car/1.jpg", "train/1.jpg"])
    with pytest.raises(DataError, match=r"train may be a split or one of 3 classes.*class_level=1"):
        read_auto(tmp_path)
    assert labels(read_auto(tmp_path, class_level=1)) == {"train": ["bus", "car", "train"]}


@pytest.mark.parametrize("flat", ["test/1.jpg", "test/images/1.jpg", "test/test/1.jpg"])
def test_split_of_flat_images_has_no_labels(tmp_path: Path, flat: str) -> None:
    fill(tmp_path, [*class_files("train"), flat])
    assert labels(read_auto(tmp_path)) == {"train": PETS, "test": []}


def test_strays_are_ignored_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, class_files("."))
    fill(tmp_path, ["cat/._0.jpg", "__MACOSX/cat/._1.jpg", "dog/Thumbs.db"])
    tables = read_auto(tmp_path)
    assert len(tables.splits["train"]) == 4
    assert "ignored 2 files that other programs left" in tables.notes[0]


def test_empty_class_folders_are_named(tmp_path: Path) -> None:
    fill(tmp_path, class_files("."))
    (tmp_path / "fish").mkdir()
    assert f"{tmp_path}: no image in the class folder fish" in read_auto(tmp_path).notes


def test_classes_that_differ_between_splits_are_named(tmp_path: Path) -> None:
    fill(tmp_path, [*class_files("train", "cat dog"), *class_files("test", "cat fish")])
    expected = "class folders of train and test differ: only in train: dog; only in test: fish"
    assert expected in read_auto(tmp_path).notes


def test_class_level_is_said_where_images_are_deeper(tmp_path: Path) -> None:
    fill(tmp_path, ["cat/images/1.jpg", "dog/images/1.jpg"])
    tables = read_auto(tmp_path)
    assert labels(tables) == {"train": PETS}
    assert "classes are the folders of the first level (cat, dog)" in tables.notes[0]


def test_class_level_is_asked_for_where_two_levels_may_be_classes(tmp_path: Path) -> None:
    fill(tmp_path, ["benign/p1/1.jpg", "benign/p2/1.jpg", "malignant/p3/1.jpg"])
    with pytest.raises(DataError, match=r"benign, malignant \(data.class_level=1\) or p1, p2, p3"):
        read_auto(tmp_path)
    assert labels(read_auto(tmp_path, class_level=1))["train"] == ["benign", "malignant"]
    assert labels(read_auto(tmp_path, class_level=-1))["train"] == ["p1", "p2", "p3"]
    with pytest.raises(DataError, match=r"data.class_level=3: .*write 1 to 2, or -1"):
        read_auto(tmp_path, class_level=3)


def test_images_beside_masks_are_not_two_classes(tmp_path: Path) -> None:
    fill(tmp_path, ["images/1.jpg", "masks/1.png"])
    with pytest.raises(DataError, match=r"images, masks look like images and their masks"):
        read_auto(tmp_path)
    assert labels(read_auto(tmp_path, format="image-folder"))["train"] == ["images", "masks"]


def test_masks_beside_their_images_are_left_out_and_said(tmp_path: Path) -> None:
    names = ["1.jpg", "1_mask.png", "1_mask_1.png", "gas_mask.jpg"]
    fill(tmp_path, [f"{kind}/{name}" for kind in PETS for name in names])
    tables = read_auto(tmp_path)
    assert tables.splits["train"]["file"] == [
        f"{kind}/{name}" for kind in PETS for name in ("1.jpg", "gas_mask.jpg")
    ]
    note = f"warning: {tmp_path / 'cat'}: masks beside their images, not read: 2"
    assert any(text.startswith(note) for text in tables.notes)


def test_classes_in_a_folder_of_images_beside_other_folders_are_read(tmp_path: Path) -> None:
    fill(tmp_path, class_files("images"))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "train.txt").write_text("cat/0\n")
    assert labels(read_auto(tmp_path)) == {"train": PETS}


def test_splits_in_a_folder_of_images_are_not_classes(tmp_path: Path) -> None:
    fill(tmp_path, [f"images/{split}/{n}.jpg" for split in ("train", "val") for n in "12"])
    (tmp_path / "labels").mkdir()
    assert "label" not in read_auto(tmp_path).splits["train"].column_names


def test_folders_of_network_drives_are_strays(tmp_path: Path) -> None:
    fill(tmp_path, [*class_files("."), "@eaDir/cat/0.jpg", "cat/@eaDir/0.jpg", "#recycle/1.jpg"])
    assert labels(read_auto(tmp_path)) == {"train": PETS}
