"""Encoding of images with boxes: tiles, augmentation."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import ObjectDetection
from tasks.detection.detection_encoder import Encoder
from tasks.detection.object_reader import Truth
from tasks.image.canvas import Canvas
from tasks.image.image_config import JOINT_PRESETS
from tasks.image.preprocessing import INPUT


def test_encoder_drops_boxes_of_a_tile_by_min_visible() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [28, 0, 48, 20], [31, 0, 51, 20]])
    truth = Truth(boxes, torch.arange(3), torch.ones(3), torch.zeros(3, dtype=torch.bool))
    canvas = Canvas((64, 64), True, (0.5,) * 3, (0.5,) * 3)
    encoder = Encoder(ObjectDetection(min_visible=0.2).config, canvas)
    sample = encoder(torch.zeros(3, 64, 64, dtype=torch.uint8), truth, [(0, 0, 32, 32)], None)
    assert sample["target"]["labels"][0].tolist() == [0, 1]
    assert sample["target"]["boxes"][0].tolist() == [[0, 0, 40, 40], [56, 0, 64, 40]]
    assert sample["target"]["truth"]["true_boxes"].shape == (3, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["light", "medium", "heavy"]))
def test_encoder_moves_boxes_with_their_objects(seed: int, preset: str) -> None:
    """The only bright rectangle of the image stays inside its box, which keeps its label."""
    rng = np.random.default_rng(seed)
    height, width = (int(value) for value in rng.integers(60, 160, 2))
    left, top = (int(rng.integers(0, edge - 25)) for edge in (width, height))
    right, bottom = left + int(rng.integers(12, 25)), top + int(rng.integers(12, 25))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    box = torch.tensor([[float(left), top, right, bottom], [0.0, 0, 1, 1]])
    crowds = torch.tensor([False, True])
    truth = Truth(box, torch.tensor([3, 1]), torch.ones(2), crowds)
    keys = {**JOINT_PRESETS[preset], "color_jitter": 0.0, "vertical_flip": 0.5}
    canvas = Canvas((128, 128), bool(seed % 2), (0.0,) * 3, (1.0,) * 3)
    encoder = Encoder(ObjectDetection(**keys).config, canvas)
    sample = encoder(image, truth, [(0, 0, width, height)], rng)
    boxes, labels = sample["target"]["boxes"][0], sample["target"]["labels"][0]
    assert len(boxes) == len(labels) <= 1
    bright = sample["inputs"][INPUT][0, 0] > 0.5
    if len(boxes):
        assert labels.tolist() == [3]
        pixels = bright.nonzero()
        extent = [*pixels.amin(0).flip(0).tolist(), *(pixels.amax(0).flip(0) + 1).tolist()]
        assert (boxes[0] - torch.tensor(extent)).abs().max() <= 3
    else:
        assert bright.float().sum() < 0.35 * bright.numel()
