"""Joint augmentation of images, masks and boxes; tiling of large images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.image.image_config import (
    JOINT_PRESETS,
    JointAugmentationConfig,
    settle_augmentation,
)
from tasks.image.joint_augmentation import (
    IGNORE,
    JointAugmentation,
    Scene,
    clip_boxes,
    crop,
    resize_mask,
)
from tasks.image.tiles import tile_starts, weights, windows

FILL = (0, 0, 255)  # no object has this color


def settled(**keys: object) -> JointAugmentationConfig:
    config = JointAugmentationConfig(name="x", **keys)  # type: ignore[arg-type]
    keys, _ = settle_augmentation(config, frozen=False, presets=JOINT_PRESETS)
    return config.model_copy(update=keys)


def rectangles(seed: int, size: tuple[int, int]) -> Scene:
    """Draw three rectangles that do not touch; red values are 80 times the classes 1, 2, 3."""
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
def test_joint_augmentation_keeps_pixels_masks_and_boxes_aligned(
    seed: int, height: int, width: int, preset: str, vertical: float
) -> None:
    original = rectangles(seed, (height, width))
    config = settled(augmentation=preset, color_jitter=0, vertical_flip=vertical, min_visible=1e-6)
    augment = JointAugmentation(config, (48, 64), FILL, interpolation="nearest-exact")
    scene = augment(original, np.random.default_rng(seed))
    assert scene.mask is not None
    assert scene.boxes is not None
    assert scene.kept is not None
    assert scene.image.shape == (3, 48, 64)
    # The color of every pixel agrees with its class in the mask.
    assert torch.equal(scene.mask == IGNORE, scene.image[2] == 255)
    inside = scene.mask != IGNORE
    assert torch.equal(scene.image[0][inside], scene.mask[inside] * 80)
    # Upscaling maps a source pixel to several pixels: a box may be off by that much.
    slack = max(48 / height, 64 / width) * 2.0 * 1.4 + 1.5
    for box, index in zip(scene.boxes, scene.kept, strict=True):
        rows, columns = torch.nonzero(scene.mask == int(index) + 1, as_tuple=True)
        if len(rows):
            visible = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert float((box - visible).abs().max()) <= slack
    for number in set(range(3)) - set(scene.kept.tolist()):  # dropped: hardly visible
        assert (scene.mask == number + 1).sum() <= 4 * slack**2


def test_joint_augmentation_is_a_function_of_the_rng() -> None:
    augment = JointAugmentation(settled(augmentation="heavy"), (48, 64))
    scene = rectangles(3, (60, 80))
    one, same, other = (augment(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.image, other.image) is False


def test_clip_boxes_drops_boxes_with_too_little_left() -> None:
    boxes = torch.tensor([[-5.0, 0, 5, 10], [-8, 0, 2, 10], [20, 0, 30, 10], [2, 2, 2, 9]])
    left, kept = clip_boxes(boxes, (10, 10), min_visible=0.3)
    assert kept.tolist() == [0]
    assert left.tolist() == [[0, 0, 5, 10]]


def test_crop_fills_the_area_outside_the_image() -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    assert crop(image, (-1, 1, 3, 2), (9,))[0].tolist() == [[9, 9], [1, 9], [3, 9]]
    assert crop(image, (5, -9, 2, 3), (9,))[0].tolist() == [[9] * 3] * 2


def test_resize_mask_aligns_pixel_centers() -> None:
    mask = torch.arange(16, dtype=torch.uint8).view(4, 4)
    assert resize_mask(mask, (2, 2)).tolist() == [[5, 7], [13, 15]]


@given(
    length=st.integers(1, 5000), tile=st.integers(1, 600), share=st.floats(0, 0.9, exclude_max=True)
)
def test_tile_starts_cover_an_edge_with_overlap(length: int, tile: int, share: float) -> None:
    overlap = int(tile * share)
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    if length > tile:
        assert starts[-1] + tile == length
        for one, other in pairwise(starts):
            assert one < other <= one + tile - overlap
    else:
        assert starts == [0]


def test_windows_stay_inside_the_image() -> None:
    assert windows((100, 60), (64, 64), 16) == [(0, 0, 60, 64), (0, 36, 60, 100)]
    assert windows((30, 40), (64, 64), 0) == [(0, 0, 40, 30)]
    with pytest.raises(ValueError, match="does not fit"):
        windows((30, 40), (64, 64), 64)
    merge_weights = weights((4, 6))
    assert merge_weights.shape == (4, 6)
    assert torch.equal(merge_weights, merge_weights.flip(0))
    assert merge_weights[0, 0] < merge_weights[1, 2] <= 1
