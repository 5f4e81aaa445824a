"""Folders with several binary masks per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import Segmentation
from tests.support.annotated_sets import (
    MASK,
    SIZE,
    read_classes,
    refusal,
    save_masks,
    save_pictures,
)

OTHER = np.zeros_like(MASK)
OTHER[:10, :20] = 1


def save_parts(root: Path, image: str, first: str, second: str) -> Path:
    for stem in ("1", "2"):
        save_pictures(root, [image.format(stem)])
        save_masks(root, [first.format(stem)], MASK * 255)
        save_masks(root, [second.format(stem)], OTHER * 255)
    return root


@pytest.mark.parametrize(
    ("image", "first", "second"),
    [
        (
            "stage1_train/{0}/images/{0}.png",
            "stage1_train/{0}/masks/a.png",
            "stage1_train/{0}/masks/b.png",
        ),
        ("{0}/images/{0}.png", "{0}/masks/a.png", "{0}/masks/b.png"),
        ("images/{}.jpg", "masks/{}_0.png", "masks/{}_1.png"),
        ("images/{}.jpg", "masks/{}/0.png", "masks/{}/1.png"),
    ],
)
def test_masks_of_objects_are_one_class(
    image: str, first: str, second: str, tmp_path: Path
) -> None:
    classes, notes = read_classes(save_parts(tmp_path, image, first, second))
    assert classes == [(MASK + OTHER).tolist()] * 2
    assert any("4 binary masks, one for each object" in note for note in notes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("masks/cat/{}.png", "masks/dog/{}.png"),
        ("masks/cat/{}_cat.png", "masks/dog/{}_dog.png"),
        ("masks/{}_cat.png", "masks/{}_dog.png"),
        ("masks/{}/cat.png", "masks/{}/dog.png"),
    ],
)
def test_a_mask_for_each_class_is_read_with_the_names(
    first: str, second: str, tmp_path: Path
) -> None:
    classes, notes = read_classes(save_parts(tmp_path, "images/{}.jpg", first, second))
    assert classes == [(MASK + 2 * OTHER).tolist()] * 2
    assert any("read as cat, dog" in note for note in notes)


def test_masks_of_the_same_pixels_are_refused(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", ["1.jpg"])
    save_masks(tmp_path / "masks", ["1_eve.png", "1_bob.png"])
    assert "perhaps the work of several annotators" in refusal(tmp_path, Segmentation())


def test_faults_and_other_folders_are_named(tmp_path: Path) -> None:
    root = save_parts(
        tmp_path, "a_train/{0}/images/{0}.png", "a_train/{0}/masks/a.png", "a_train/{0}/masks/b.png"
    )
    save_pictures(root / "a_test" / "9" / "images", ["9.png"])
    save_masks(root, ["a_train/1/masks/a.png"], MASK + 2 * OTHER)
    save_masks(root, ["a_train/2/masks/a.png"], np.ones((SIZE[1] + 1, SIZE[0]), np.uint8))
    message = refusal(root, Segmentation())
    assert "a_train/1/masks/a.png: has 3 values" in message
    assert "a_train/2/masks/a.png: mask of 96 x 73 pixels at 0, 0 extends beyond" in message
    save_masks(root, ["a_train/1/masks/a.png", "a_train/2/masks/a.png"])
    assert any(note.endswith("not read: a_test") for note in read_classes(root)[1])
