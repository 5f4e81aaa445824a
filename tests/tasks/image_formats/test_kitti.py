"""Labels of KITTI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import ObjectDetection
from tests.support.annotated_sets import (
    BOX,
    open_set,
    read_boxes,
    refusal,
    save_pictures,
    write_text,
)

LINE = f"Car 0.00 0 -1.58 {' '.join(f'{side}.00' for side in BOX)} 1.65 1.67 3.64 -0.65 1.71 46.7 -1.6\n"
APART = "DontCare -1 -1 -10 5.0 5.0 9.0 9.0 -1 -1 -1 -1000 -1000 -1000 -10\n"


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        ("training/label_2", "training/image_2"),
        ("train/labels", "train/images"),
        ("label_2", "image_2"),
    ],
)
def test_kitti_reads_classes_and_boxes(labels: str, images: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / images, ["0.png", "1.png", "2.png"])
    for name in ("0", "1"):
        write_text(tmp_path / labels / f"{name}.txt", LINE + APART)
    boxes, notes = read_boxes(tmp_path)
    assert boxes == [[("Car", *BOX)]] * 2
    assert "train: not read: 2 regions DontCare, whose objects are learned as background" in notes
    assert "train: images without a label file, not read: 1 (2.png)" in notes


def test_kitti_reports_short_lines_and_missing_images_by_place(tmp_path: Path) -> None:
    save_pictures(tmp_path / "image_2", ["0.png"])
    write_text(tmp_path / "label_2" / "0.txt", f"{LINE}Car 0.00 0 -1.58 1.0 2.0\n")
    assert "label_2/0.txt:2: has 6 words; 15 are needed" in refusal(tmp_path)
    write_text(tmp_path / "label_2" / "0.txt", LINE)
    write_text(tmp_path / "label_2" / "1.txt", LINE)
    assert "label_2/1.txt: image" in refusal(tmp_path)
    (tmp_path / "image_2" / "0.png").unlink()
    assert "set data.images=FOLDER" in refusal(tmp_path)
    save_pictures(tmp_path / "photos", ["0.png", "1.png"])
    photos = str(tmp_path / "photos")
    assert len(open_set(ObjectDetection(), tmp_path, images=photos).train) == 2
