"""COCO annotations: masks, and what other programs write beside the format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from finetune.listing.split_names import split_of
from tasks import Segmentation
from tasks.annotations.box_formats import to_rows
from tasks.coco.coco import read_coco
from tasks.coco.coco_files import find_coco
from tasks.detection.object_rows import learn_categories
from tasks.mask_sources.mask_files import NO_OBJECT, paint_objects
from tasks.objects.annotated import mask_row
from tests.support.annotated_sets import (
    BOX,
    MASK,
    coco_content,
    read_boxes,
    read_classes,
    refusal,
    save_pictures,
    write_json,
)
from tests.support.tiny_scenes import SIZE

NAMES = ("a.jpg", "b.jpg", "c.jpg")


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
        ([[0, 0, 70, 70] * 60_000], r"its polygon of 120000 points is 1.19e\+07 pixels long"),
        ([1, 2, "x", 4, 5, 6], r"segmentation is neither polygons \[\[x, y, ...\]\] nor RLE"),
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


def test_boxes_that_are_corners_by_their_outlines_are_read_as_corners(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    content = coco_content(NAMES)
    for item in content["annotations"]:
        item |= {"bbox": [3, 4, 20, 30], "segmentation": [[3, 4, 20, 4, 20, 30, 3, 30]]}
    write_json(tmp_path / "a.json", content)
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("square", 3, 4, 20, 30)]] * 3
    assert any("boxes are left, top, right, bottom" in note for note in notes)
    for item in content["annotations"]:
        item["segmentation"] = [[30, 4, 60, 4, 60, 30, 30, 30]]
    write_json(tmp_path / "a.json", content)
    notes = read_boxes(tmp_path)[1]
    assert any("3 of 3 boxes are not those around their outlines" in note for note in notes)


def test_annotations_that_count_the_categories_from_1_are_refused_as_a_whole(
    tmp_path: Path,
) -> None:
    save_pictures(tmp_path, NAMES)
    content = coco_content(NAMES)
    content["annotations"][0]["category_id"] = 2
    write_json(tmp_path / "a.json", content)
    message = refusal(tmp_path, on_error="skip")
    assert "category ids 1 to 2, but the categories 0 to 1" in message


def test_fields_of_other_programs_are_read_or_named(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train2017", NAMES)
    content = coco_content(NAMES)
    for image, item in zip(content["images"], content["annotations"], strict=True):
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.cocodataset.org/train2017/{name}", "split": "val"}
        item["segmentation"] = item["segmentation"][0]  # VIA: the points of one polygon
    write_json(tmp_path / "lvis_v1_train.json", content)
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("square", *BOX)]] * 3
    assert any("fields of images, not read: split (3)" in note for note in notes)
    assert read_classes(tmp_path)[0] == [MASK.tolist()] * 3


def test_a_run_length_mask_without_a_box_has_the_box_around_it(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    content = coco_content(NAMES)
    runs = np.diff(np.flatnonzero(np.diff(MASK.T.ravel(), prepend=0, append=0)), prepend=0)
    counts = [*runs.tolist(), MASK.size - int(runs.sum())]
    for item in content["annotations"]:
        item |= {"bbox": None, "segmentation": {"size": list(MASK.shape), "counts": counts}}
    write_json(tmp_path / "a.json", content)
    assert read_boxes(tmp_path)[0] == [[("square", *BOX)]] * 3


def test_learn_categories_counts_objects_that_repeat_another() -> None:
    item = {"bbox": [1, 2, 3, 4], "category": "a"}
    rows = [{"objects": [item, item, {**item, "category": "b"}]}, {"objects": [item]}]
    note = learn_categories(rows, "objects", None)[2]
    assert "objects that repeat another of their image and class: 1" in note
