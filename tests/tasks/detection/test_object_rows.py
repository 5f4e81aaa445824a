"""Rows with an image and its objects, as they are shown to people."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tasks import ObjectDetection


def test_boxes_are_described_with_two_decimals_at_most(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4000, 3000)).save(path)
    boxes = [[-7.5e-06, 2.0, 3.125, 4.5], [1234.5678, 0.0, 3999.999, 2000.0]]
    row = {
        "image": path.as_posix(),
        "objects": [{"bbox": box, "category": "cat"} for box in boxes],
    }
    shown = ObjectDetection().rows.describe(row)
    assert "2 objects: cat (0, 2, 3.12, 4.5), cat (1234.57, 0, 4000, 2000)" in shown


def test_objects_of_a_missing_image_are_described_as_they_are_stored(tmp_path: Path) -> None:
    rows = ObjectDetection(image="image", objects="objects", boxes="xyxy").rows
    row = {
        "image": str(tmp_path / "no.png"),
        "objects": {"bbox": [[1, 2, 3, 4]], "category": ["a"]},
    }
    assert "-> objects {'bbox': [[1, 2, 3, 4]]" in rows.describe(row)
