"""Lists of images with a label each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import ImageClassification
from tests.support.annotated_sets import open_set, refusal, save_pictures, write_text

NAMES = ["a b.jpg", "c.JPG", "d.png"]


@pytest.mark.parametrize("mark", [" ", "\t", ", "])
def test_image_lists_are_read_with_their_splits(mark: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", NAMES)
    write_text(tmp_path / "train.txt", f"in/a b.jpg{mark}3\n\nin/c.JPG{mark}4\n")
    write_text(tmp_path / "val.txt", f"in/d.png{mark}3\n")
    splits = open_set(ImageClassification(), tmp_path, validation="validation")
    assert splits.train["label"] == ["3", "4"]
    assert splits.validation is not None
    assert splits.validation["label"] == ["3"]
    assert f"{tmp_path}: read as lists of images and labels: one label an image" in splits.notes


@pytest.mark.parametrize(
    ("line", "message"),
    [("in/c.JPG 1 0", "several numbers follow the image"), ("in/c.JPG", "is not an image and its")],
)
def test_image_lists_refuse_other_lines(line: str, message: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", NAMES)
    text = "".join("in/a b.jpg dog\n" for _ in range(5))
    write_text(tmp_path / "train.txt", f"{text}{line}\n")
    assert message in refusal(tmp_path, ImageClassification())
    assert "train.txt:6" in refusal(tmp_path, ImageClassification())


def test_lists_of_images_alone_are_no_labels(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        save_pictures(tmp_path / label, NAMES)
    write_text(tmp_path / "train.txt", "cat/c.JPG\ndog/c.JPG\n")
    assert sorted({*open_set(ImageClassification(), tmp_path).train["label"]}) == ["cat", "dog"]


def test_a_list_of_held_out_images_does_not_hide_the_classes_of_train(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        save_pictures(tmp_path / "train" / label / "images", [f"{label}_0.png", f"{label}_1.png"])
    save_pictures(tmp_path / "val" / "images", ["0.png"])
    write_text(tmp_path / "val" / "val_annotations.txt", "0.png\tcat\t0\t0\t9\t9\n")
    splits = open_set(ImageClassification(), tmp_path, validation=None)
    assert [row["label"] for row in splits.train] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("other", ["masks/a b.png", "Annotations/a b.xml"])
def test_lists_of_images_and_files_are_no_labels(other: str, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        save_pictures(tmp_path / label, NAMES)
    write_text(tmp_path / "train.txt", f"cat/a b.jpg {other}\ndog/a b.jpg {other}\n")
    assert sorted({*open_set(ImageClassification(), tmp_path).train["label"]}) == ["cat", "dog"]
