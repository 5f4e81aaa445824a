"""COCO annotations read as masks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from tasks import Segmentation
from tasks.annotations.annotated import mask_row
from tasks.annotations.box_formats import to_rows
from tasks.annotations.coco import find_coco, read_coco, split_of
from tasks.mask_sources.mask_files import NO_OBJECT, paint_objects
from tests.support.tiny_scenes import SIZE


def test_read_coco_gives_the_drawn_masks(scenes: Path) -> None:
    rows = to_rows(read_coco(scenes)[0], mask_row)["train"]
    assert len(rows) == 40
    assert rows[0]["objects"] == []
    for row in rows:
        file = Path(row["image"].replace("/images/", "/masks/")).with_suffix(".png")
        drawn = np.asarray(Image.open(file)).astype(int)
        painted = paint_objects(row["objects"], (SIZE[1], SIZE[0]))
        assert np.array_equal(np.where(painted == NO_OBJECT, 0, painted), drawn)


def test_paint_objects_paints_small_objects_last(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    corners = [[0, 0, 8, 0, 8, 8, 0, 8], [2, 2, 4, 2, 4, 4, 2, 4]]
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 9, "segmentation": [corners[1]], "area": 4},
            {"image_id": 1, "category_id": 3, "segmentation": [corners[0]], "area": 64},
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    rows = to_rows(read_coco(tmp_path / "all.json")[0], mask_row)["train"]
    painted = paint_objects(rows[0]["objects"], (8, 8))
    assert (painted == 9).sum() == 4
    assert (painted == 3).sum() == 60
    (tmp_path / "all.json").write_text('{"images": []}')
    assert find_coco(tmp_path / "all.json") == {}
    with pytest.raises(DataError, match="no COCO annotations found"):
        read_coco(tmp_path / "all.json")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            [[1, 2, float("nan"), 4, 5, 6]],
            "its polygon has the coordinate nan, far outside the image",
        ),
        ([[1, 2, 3, 4, 5, 1e9]], r"its polygon has the coordinate 1e\+09"),
        ([1, 2, 3, 4, 5, 6], r"segmentation is neither polygons \[\[x, y, ...\]\] nor RLE"),
        ({"size": [8, 8], "counts": "!!!bad"}, "its RLE cannot be decoded"),
        (
            {"size": [10, 10], "counts": "0T3"},
            r"size \[height, width\] \[10, 10\], but the image has",
        ),
        ({"size": [8, 8], "counts": [5, 5]}, "segmentation is neither|its RLE"),
        ({"size": [8, 8], "counts": "05"}, "its RLE cannot be decoded"),
    ],
)
def test_read_coco_keeps_a_malformed_segmentation_as_a_fault(
    segmentation: Any, message: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    broken = {"id": 5, "image_id": 1, "category_id": 3, "segmentation": segmentation}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [broken],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    task = Segmentation(image="image", mask="objects")
    (fault,) = task.rows.validate(
        to_rows(read_coco(tmp_path / "all.json")[0], mask_row)["train"][0]
    )
    assert fault.startswith("all.json, annotation 5: ")
    assert re.search(message, fault)


def test_split_of_finds_the_split_in_a_name() -> None:
    assert split_of("instances_train2017") == "train"
    assert split_of("valid") == "validation"
    assert split_of("_annotations.coco") is None
