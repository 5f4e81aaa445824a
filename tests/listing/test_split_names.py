"""Names of splits and of what other programs leave in folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.listing.split_names import split_name, splits_of_siblings
from finetune.listing.walking import list_visible, note_strays, walk_visible


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("training_set", "train"),
        ("train-jpg", "train"),
        ("TrainImages", "train"),
        ("train2017", "train"),
        ("val_set", "validation"),
        ("testset", "test"),
        ("test1", "test"),
        ("seg_train", None),
        ("train_station", None),
        ("images", None),
        ("test2", None),
        ("contest", None),
    ],
)
def test_split_name_reads_names_that_only_name_a_split(name: str, split: str | None) -> None:
    assert split_name(name) == split


def test_splits_of_siblings_accepts_a_common_word() -> None:
    assert splits_of_siblings(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train",
        "seg_test": "test",
    }
    assert splits_of_siblings(["train_station", "airport"]) == {}
    assert splits_of_siblings(["train", "pre_train"]) == {"train": "train"}


def test_walk_visible_leaves_out_strays_at_every_level(tmp_path: Path) -> None:
    strays = ["__MACOSX/a/._1.jpg", "a/._1.jpg", "a/Thumbs.db", "a/b/desktop.ini", ".DS_Store"]
    strays += [".git/1.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg"]
    for name in [*strays, "a/1.jpg", "a/b/2.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in walk_visible(tmp_path)]
    assert found == ["a/1.jpg", "a/b/2.jpg"]
    assert [path.name for path in list_visible(tmp_path)] == ["a"]
    (note,) = note_strays(tmp_path)
    assert "ignored 3 files that other programs left" in note
