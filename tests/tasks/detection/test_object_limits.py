"""Rows of more objects than an image may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import DataError
from tasks import ObjectDetection
from tasks.objects import boxes


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_image_of_too_many_objects_is_a_fault_of_its_row(
    on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "MOST_OBJECTS", 3)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    places = [[number, 5, 30, 38] for number in range(5)]
    rows = [
        {
            "image": str(tmp_path / "a.png"),
            "objects": {"bbox": places[:count], "category": ["cat"] * count},
        }
        for count in (5, 1, 2, 3)
    ]
    config, task = DataConfig(on_error=on_error, validation=0), ObjectDetection()
    if on_error == "skip":
        assert len(open_splits(config, task, rows).train) == 3
        return
    with pytest.raises(DataError, match="row 1: objects has 5 objects, more than the 3 that an"):
        open_splits(config, task, rows)
