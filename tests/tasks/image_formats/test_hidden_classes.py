"""Tables of images in class folders, whose columns hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import ImageClassification
from tests.support.annotated_sets import open_set, refusal, save_pictures, write_text

CLASSES = ("cat", "dog")


def write_set(root: Path, column: str, values: str) -> Path:
    lines = [f"{name}/{i}.jpg,{values[i]}" for name in CLASSES for i in range(4)]
    for name in CLASSES:
        save_pictures(root / name, [f"{i}.jpg" for i in range(4)])
    write_text(root / "metadata.csv", "\n".join([f"file_name,{column}", *lines]) + "\n")
    return root


@pytest.mark.parametrize(("column", "values"), [("source", "abab"), ("width", "5555")])
def test_a_column_that_hides_class_folders_is_refused(
    column: str, values: str, tmp_path: Path
) -> None:
    root = write_set(tmp_path, column, values)
    message = refusal(root, ImageClassification())
    assert "the folders cat, dog, which may be their classes" in message
    assert "data.format=image-folder" in message
    folders = open_set(ImageClassification(), root, format="image-folder").train
    assert folders["label"][:] == ["cat"] * 4 + ["dog"] * 4
    assert open_set(ImageClassification(label=column), root).train[column][:] == [*values] * 2


def test_a_column_named_label_decides(tmp_path: Path) -> None:
    rows = open_set(ImageClassification(), write_set(tmp_path, "label", "abab")).train
    assert rows["label"][:] == ["a", "b", "a", "b"] * 2
