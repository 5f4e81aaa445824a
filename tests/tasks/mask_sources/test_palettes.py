"""Palettes that number the same colors differently from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from tests.support.annotated_sets import MASK, read_classes, save_pictures

RED, BLUE = [255, 0, 0], [0, 0, 255]


def save_masks_with(root: Path, *palettes: list[int]) -> Path:
    for number, colors in enumerate(palettes):
        save_pictures(root / "images", [f"{number}.jpg"])
        mask = Image.fromarray(MASK.astype(np.uint8)).convert("P")
        mask.putdata(MASK.ravel().tolist())
        mask.putpalette(colors)
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{number}.png")
    return root


def test_masks_whose_palettes_differ_are_refused_or_read_by_color(tmp_path: Path) -> None:
    root = save_masks_with(tmp_path, RED + BLUE, BLUE + RED)
    with pytest.raises(DataError, match="value 0 is #ff0000 in .*, but #0000ff in .*differ"):
        read_classes(root)
    first, second = read_classes(root, task={"encoding": "color"})[0]
    assert np.array_equal(np.asarray(first), MASK == 0)
    assert np.array_equal(np.asarray(second), MASK == 1)
    assert read_classes(root, task={"encoding": "index"})[0] == [MASK.tolist()] * 2


def test_palettes_may_differ_in_colors_that_do_not_occur(tmp_path: Path) -> None:
    root = save_masks_with(tmp_path, RED + BLUE + RED, RED + BLUE + BLUE)
    assert read_classes(root)[0] == [MASK.tolist()] * 2


def test_palettes_of_held_out_masks_are_compared_with_those_of_train(tmp_path: Path) -> None:
    save_masks_with(tmp_path / "train", RED + BLUE)
    save_masks_with(tmp_path / "val", BLUE + RED)
    with pytest.raises(DataError, match="value 0 is #ff0000 in .*train.*, but #0000ff in .*val"):
        read_classes(tmp_path, validation="val")
