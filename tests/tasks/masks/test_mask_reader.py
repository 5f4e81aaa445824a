"""Masks of rows: validation against the image, mapping of COCO objects to classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from tasks import Segmentation
from tasks.masks.mask_reader import MaskReader
from tasks.masks.mask_rows import MaskRows
from tasks.masks.segmentation_config import SegmentationConfig
from tests.support.contract import resolve
from tests.support.masks import make_object


def test_check_masks_rejects_a_column_of_folder_names() -> None:
    with pytest.raises(DataError, match="column 'label' has 'images', which is not a mask; add a"):
        resolve(Segmentation(), {"image": ["images/a.png"], "label": ["images"]})


def test_mask_reader_makes_unlisted_objects_background() -> None:
    row = {"mask": [make_object(3, 0), make_object(9, 4)], "image": Image.new("RGB", (8, 8))}
    reader = MaskReader(SegmentationConfig(labels=["dog"]))
    coding, _ = reader.learn([row])
    classes = reader.classes(row, (8, 8), coding)
    assert classes is not None
    assert classes[:, :4].eq(1).all()
    assert classes[:, 4:].eq(0).all()


def test_mask_reader_reports_a_mask_of_another_size(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")  # above Pillow's own limit
    row = {"mask": np.zeros((8, 8), np.uint8)}
    faults = list(MaskReader(SegmentationConfig()).faults(row, str(tmp_path / "large.png")))
    assert faults == ["mask has 8 x 8 pixels, but the image 10000 x 9000"]


def test_mask_reader_reports_a_renamed_category() -> None:
    row = {"mask": [make_object(3, 0), make_object(9, 4)], "image": Image.new("RGB", (8, 8))}
    reader = MaskReader(SegmentationConfig())
    coding, _ = reader.learn([row])
    assert list(reader.faults(row, row["image"])) == list(reader.unseen(row, coding)) == []
    other = {**row, "mask": [{**make_object(3, 0), "category": "wolf"}]}
    (fault,) = reader.unseen(other, coding)
    assert fault == "train.json, annotation 5: category_id 3 is 'wolf', but 'dog' in train"


def test_labels_of_a_row_are_the_categories_of_its_objects() -> None:
    """Splits by share then keep an image of every category in train."""
    rows = MaskRows(SegmentationConfig(mask="mask"))
    objects = [
        {"category": name, "polygons": [[0, 0, 4, 0, 4, 4]]} for name in ("cat", "dog", "cat")
    ]
    assert rows.labels({"image": "a.png", "mask": objects}) == ("cat", "dog")
    assert rows.labels({"image": "a.png", "mask": "b.png"}) == ()
