"""Keys of object detection."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.detection.detection_config import ObjectDetectionConfig, TileConfig


def test_tile_may_be_a_number() -> None:
    assert ObjectDetectionConfig(tile=400).tile == TileConfig(size=400)
    assert ObjectDetectionConfig(tile=40).tile == TileConfig(size=40, overlap=10)
    assert ObjectDetectionConfig(tile={"size": 40, "overlap": 8}).tile == TileConfig(
        size=40, overlap=8
    )
    for wrong in (True, 0, "large"):
        with pytest.raises(ValidationError):
            ObjectDetectionConfig(tile=wrong)
