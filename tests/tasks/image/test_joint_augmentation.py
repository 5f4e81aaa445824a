"""Pixels, masks and boxes stay in step under every augmentation; tiles cover an image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.image.augmentation import settle_augmentation
from tasks.image.joint_augmentation import (
    IGNORE,
    JOINT_PRESETS,
    JointAugmentation,
    JointAugmentationConfig,
    Scene,
    clip_boxes,
    crop,
    resize_mask,
)
from tasks.image.tiles import starts, weights, windows

FILL = (0, 0, 255)  # no object has this colour


def settled(**keys: object) -> JointAugmentationConfig:
    config = JointAugmentationConfig(name="x", **keys)  # type: ignore[arg-type]
    found, _ = settle_augmentation(config, frozen=False, presets=JOINT_PRESETS)
    return config.model_copy(update=found)


def rectangles(seed: int, size: tuple[int, int]) -> Scene:
    """Three rectangles that do not touch, red brightness telling which: the mask says 1, 2, 3."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    mask, boxes = torch.zeros(height, width, dtype=torch.uint8), []
    for number in range(3):
        left, right = np.sort(rng.choice(width // 3, 2, replace=False)) + number * width // 3
        top, bottom = np.sort(rng.choice(height, 2, replace=False))
        image[0, top:bottom, left:right] = 80 * (number + 1)
        mask[top:bottom, left:right] = number + 1
        boxes.append([left, top, right, bottom])
    return Scene(image, mask, torch.tensor(np.array(boxes), dtype=torch.float32))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    preset=st.sampled_from(["light", "medium", "heavy"]),
    vertical=st.sampled_from([0.0, 1.0]),
)
def test_pixels_masks_and_boxes_stay_in_step(
    seed: int, height: int, width: int, preset: str, vertical: float
) -> None:
    given_scene = rectangles(seed, (height, width))
    config = settled(augmentation=preset, color_jitter=0, vertical_flip=vertical, min_visible=1e-6)
    augment = JointAugmentation(config, (48, 64), FILL, interpolation="nearest-exact")
    scene = augment(given_scene, np.random.default_rng(seed))
    assert scene.mask is not None
    assert scene.boxes is not None
    assert scene.kept is not None
    assert scene.image.shape == (3, 48, 64)
    # Every pixel says by its colour what the mask says of it.
    assert torch.equal(scene.mask == IGNORE, scene.image[2] == 255)
    inside = scene.mask != IGNORE
    assert torch.equal(scene.image[0][inside], scene.mask[inside] * 80)
    # A pixel of the source may be several of the result: that far may a box be from its pixels.
    slack = max(48 / height, 64 / width) * 2.0 * 1.4 + 1.5
    for box, place in zip(scene.boxes, scene.kept, strict=True):
        rows, columns = torch.nonzero(scene.mask == int(place) + 1, as_tuple=True)
        if len(rows):
            seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert float((box - seen).abs().max()) <= slack
    for number in set(range(3)) - set(scene.kept.tolist()):  # dropped: next to nothing is seen
        assert (scene.mask == number + 1).sum() <= 4 * slack**2


def test_one_rng_gives_one_scene_and_another_gives_others() -> None:
    augment = JointAugmentation(settled(augmentation="heavy"), (48, 64))
    scene = rectangles(3, (60, 80))
    one, same, other = (augment(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.image, other.image) is False


def test_boxes_are_cut_at_the_border_and_dropped_by_what_is_left() -> None:
    boxes = torch.tensor([[-5.0, 0, 5, 10], [-8, 0, 2, 10], [20, 0, 30, 10], [2, 2, 2, 9]])
    left, kept = clip_boxes(boxes, (10, 10), min_visible=0.3)
    assert kept.tolist() == [0]
    assert left.tolist() == [[0, 0, 5, 10]]


def test_a_crop_beyond_the_picture_is_filled() -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    assert crop(image, (-1, 1, 3, 2), (9,))[0].tolist() == [[9, 9], [1, 9], [3, 9]]
    assert crop(image, (5, -9, 2, 3), (9,))[0].tolist() == [[9] * 3] * 2


def test_a_mask_is_read_at_the_middle_of_its_pixels() -> None:
    mask = torch.arange(16, dtype=torch.uint8).view(4, 4)
    assert resize_mask(mask, (2, 2)).tolist() == [[5, 7], [13, 15]]


@given(
    length=st.integers(1, 5000), tile=st.integers(1, 600), share=st.floats(0, 0.9, exclude_max=True)
)
def test_tiles_cover_an_edge_overlap_and_end_flush(length: int, tile: int, share: float) -> None:
    overlap = int(tile * share)
    found = starts(length, tile, overlap)
    assert found[0] == 0
    if length > tile:
        assert found[-1] + tile == length
        for one, other in pairwise(found):
            assert one < other <= one + tile - overlap
    else:
        assert found == [0]


def test_windows_stay_inside_and_a_small_image_is_one() -> None:
    assert windows((100, 60), (64, 64), 16) == [(0, 0, 60, 64), (0, 36, 60, 100)]
    assert windows((30, 40), (64, 64), 0) == [(0, 0, 40, 30)]
    with pytest.raises(ValueError, match="does not fit"):
        windows((30, 40), (64, 64), 64)
    counted = weights((4, 6))
    assert counted.shape == (4, 6)
    assert torch.equal(counted, counted.flip(0))
    assert counted[0, 0] < counted[1, 2] <= 1
