"""Values of masks that have several readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from tasks.mask_sources.mask_files import MaskFacts, count_values, read_mask
from tasks.masks.mask_coding import MaskCoding, learn_coding
from tests.support.annotated_sets import read_classes, save_pictures


def facts(*masks: list[int]) -> list[MaskFacts]:
    return [count_values(np.array([values], np.int32), "index") for values in masks]


def learn(
    masks: list[MaskFacts], labels: Any = None, ignore: Any = None, encoding: Any = "auto"
) -> MaskCoding:
    return learn_coding(masks, labels, ignore, encoding)


def test_foreground_of_1_in_some_masks_and_255_in_others_is_refused() -> None:
    masks = facts([0, 1], [0, 255])
    with pytest.raises(DataError, match="1 of 2 have 255 where the others have 1.*instance"):
        learn(masks)
    assert learn(masks, ignore=[255]).values == (0, 1)
    assert learn(facts([0, 1, 255], [0, 255])).ignored == (255,)  # a border around objects


def test_negative_values_are_refused_until_they_are_ignored() -> None:
    with pytest.raises(DataError, match=r"values -1.*task.ignore=\[-1\] ignores"):
        learn(facts([-1, 0, 1]))
    assert learn(facts([-1, 0, 1]), ignore=[-1]).values == (0, 1)


def test_names_that_may_count_from_0_or_from_1_are_refused() -> None:
    masks, names = facts([1, 2], [2, 3]), ["sky", "tree", "road", "car"]
    with pytest.raises(DataError, match="1 may be 'sky' .*one-based.* or 'tree' .*index"):
        learn(masks, names)
    assert learn(masks, names, encoding="one-based").values == (1, 2, 3, 4)
    assert learn(masks, names, encoding="index").values == (0, 1, 2, 3)
    assert learn(masks, ["background", *names]).values == (0, 1, 2, 3, 4)
    assert learn(masks, names[:3]).values == (1, 2, 3)


def test_masks_of_mixed_values_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (72, 96)).astype(np.uint8)
    save_pictures(tmp_path / "images", ["a.jpg", "b.jpg"])
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(noise).save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(DataError, match="200 values or more, as lossy compression or resizing"):
        read_classes(tmp_path)


def test_masks_of_several_pages_are_refused(tmp_path: Path) -> None:
    path, pages = tmp_path / "mask.tif", [Image.new("L", (8, 6), value) for value in (0, 255)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="has 2 pages or frames"):
        read_mask(str(path))
    pages[0].save(path, save_all=True, append_images=[pages[1].resize((4, 3))])  # a thumbnail
    assert read_mask(str(path))[0].shape == (6, 8)
