"""Segmentation and object detection of images of one band and of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.testing import check_task
from tasks import ObjectDetection, Segmentation
from tests.support.tiny_scenes import scene_rows


def banded(rows: list[dict[str, Any]], bands: int) -> list[dict[str, Any]]:
    """Return rows whose images have several 16-bit bands."""
    changed = []
    for row in rows:
        image = row["image"] if isinstance(row["image"], Image.Image) else Image.open(row["image"])
        gray = np.asarray(image.convert("L")).astype(np.uint16) * 40
        changed.append(
            {**row, "image": np.stack([gray + index for index in range(bands)], axis=-1)}
        )
    return changed


@pytest.mark.parametrize("channels", [1, 5])
def test_segmentation_of_other_channels_keeps_the_task_contract(
    channels: int, segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    rows = scene_rows(scenes) if channels == 1 else banded(scene_rows(scenes), channels)
    task = Segmentation(channels=channels, image_size=[32, 48])
    check_task(task, rows, str(segmentation_networks["resnet"]))


@pytest.mark.parametrize("channels", [1, 5])
def test_detection_of_other_channels_keeps_the_task_contract(
    channels: int, detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    rows = object_rows if channels == 1 else banded(object_rows, channels)
    task = ObjectDetection(channels=channels, image_size=64, fpn_width=64, head_convs=1)
    check_task(task, rows, str(detection_networks["fcos"]))


def test_channels_that_a_network_or_an_augmentation_cannot_have_are_refused(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    rows = banded(scene_rows(scenes), 5)
    keys: dict[str, Any] = {"image": "image", "mask": "mask", "channels": 5}
    source = ModelConfig(name=str(segmentation_networks["segformer"]))
    with pytest.raises(ModelError, match="task.channels=5: .* reads RGB"):
        Segmentation(**keys).setup(rows, source, frozen=False)
    source = ModelConfig(name=str(segmentation_networks["resnet"]))
    with pytest.raises(ConfigError, match="task.color_jitter=0.2: changes colors, .* 5 bands"):
        Segmentation(**keys, color_jitter=0.2).setup(rows, source, frozen=False)
