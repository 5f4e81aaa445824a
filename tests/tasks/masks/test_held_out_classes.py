"""Classes that only held-out masks have."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.masks.held_out_classes import list_all_classes
from tasks.masks.mask_reader import MaskReader
from tasks.masks.segmentation_config import SegmentationConfig


def _masks(*values: list[int]) -> list[dict[str, np.ndarray]]:
    return [{"mask": np.array([one, one], np.uint8)} for one in values]


def test_classes_that_only_held_out_masks_have_are_classes() -> None:
    reader = MaskReader(SegmentationConfig())
    splits = {"train": _masks([0, 2, 255]), "validation": _masks([0, 5], [0, 255])}
    resolved = list_all_classes(reader, splits)
    assert resolved.keys["labels"] == {"class 0": 0, "class 2": 2, "class 5": 5}
    assert "lack (5), which are classes too" in resolved.notes[0]
    completed = MaskReader(SegmentationConfig(**resolved.keys))
    coding, _ = completed.learn(splits["train"])
    assert coding.classes(np.array([0, 2, 5, 255])).tolist() == [0, 1, 2, 255]
    assert not [fault for row in splits["validation"] for fault in completed.unseen(row, coding)]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [([0, 2], [2, 2]), ([0, 2], [0, 255]), ([0, 255], [0, 128, 255])],
    ids=["none", "ignored", "foreground"],
)
def test_held_out_masks_do_not_change_the_meaning_of_training_masks(
    train: list[int], held_out: list[int]
) -> None:
    splits = {"train": _masks(train), "test": _masks(held_out)}
    assert list_all_classes(MaskReader(SegmentationConfig()), splits) == ({}, [])
