"""One large image divided into areas of train and held-out pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_splits
from finetune.task import Task
from tasks.image_classification import ImageClassification
from tasks.object_detection import ObjectDetection
from tasks.objects.boxes import CONVENTIONS, from_corners, to_corners
from tasks.pixels.areas import Area, divide_area
from tasks.segmentation import Segmentation


@pytest.fixture
def aerial(tmp_path: Path) -> Path:
    """A COCO folder with a single image of 400 x 100 pixels and three outlined objects."""
    pixels = np.arange(400 * 100 * 3, dtype=np.uint32).reshape(100, 400, 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "aerial.png")
    objects = []
    for number, left in enumerate((10, 300, 350), start=1):
        box = [left, 20, 40, 30]
        outline = [left, 20, left + 40, 20, left + 40, 50, left, 50]
        facts = {"id": number, "image_id": 1, "category_id": number % 2 + 1, "iscrowd": 0}
        objects.append({**facts, "bbox": box, "area": 1200, "segmentation": [outline]})
    names = [{"id": 1, "name": "roof"}, {"id": 2, "name": "road"}]
    image = {"id": 1, "file_name": "aerial.png", "width": 400, "height": 100}
    content = {"images": [image], "annotations": objects, "categories": names}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def divided(task: Task, folder: Path, **keys: Any) -> Splits:
    return open_splits(DataConfig(source=str(folder), **keys), task)


def test_divide_area_cuts_the_longer_side_into_disjoint_pieces() -> None:
    areas = divide_area((100, 400), {"validation": 0.2, "test": 0.1}, 32)
    assert areas == {
        "train": Area(0, 0, 280, 100),
        "validation": Area(280, 0, 360, 100),
        "test": Area(360, 0, 400, 100),
    }
    assert divide_area((400, 100), {"validation": 0.2}, 32) == {
        "train": Area(0, 0, 100, 320),
        "validation": Area(0, 320, 100, 400),
    }
    assert divide_area((100, 400), {"validation": 0.01}, 32) is None


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_from_corners_inverts_to_corners(convention: Any) -> None:
    box = (10.0, 20.0, 50.0, 40.0)
    values = from_corners(box, convention, (100, 200))
    assert to_corners(values, convention, (100, 200)) == pytest.approx(box)


def test_open_splits_divides_the_only_image_of_a_detector_by_area(aerial: Path) -> None:
    task = ObjectDetection(tile={"size": 48, "overlap": 8})
    splits = divided(task, aerial)
    assert splits.validation is not None
    train, held_out = splits.train[0], splits.validation[0]
    whole = Image.open(aerial / "aerial.png")
    assert np.array_equal(np.asarray(task.rows.image(held_out)), np.asarray(whole)[:, 320:])
    assert task.rows.image(train).size == (320, 100)
    boxes = {
        split: [
            (task.rows.objects.category(each), each.box) for each in task.rows.objects.read(row)
        ]
        for split, row in (("train", train), ("validation", held_out))
    }
    # The second object crosses the border: its center is at 320, in the held-out area.
    assert boxes == {
        "train": [("road", (10, 20, 50, 50))],
        "validation": [("roof", (0, 20, 20, 50)), ("road", (30, 20, 70, 50))],
    }
    assert any(note.startswith("the only row is divided: 0.8 train, 0.2 ") for note in splits.notes)


def test_open_splits_divides_the_only_mask_by_area(aerial: Path, tmp_path: Path) -> None:
    by_outlines = Segmentation(tile=32)
    splits = divided(by_outlines, aerial)
    masks = tmp_path / "set"
    (masks / "images").mkdir(parents=True)
    (masks / "masks").mkdir()
    Image.open(aerial / "aerial.png").save(masks / "images" / "a.png")
    values = np.zeros((100, 400), np.uint8)
    for category, left in ((2, 10), (1, 300), (2, 350)):
        values[20:50, left : left + 40] = category
    Image.fromarray(values).save(masks / "masks" / "a.png")
    by_pixels = Segmentation(tile=32)
    other = divided(by_pixels, masks)
    for split, (left, right) in {"train": (0, 320), "validation": (320, 400)}.items():
        counts = dict(by_pixels.rows.masks.facts(other.named[split][0]).counts)
        assert counts == {int(v): int((values[:, left:right] == v).sum()) for v in (0, 1, 2)}
        outlined = dict(by_outlines.rows.masks.facts(splits.named[split][0]).counts)
        assert {value: outlined[value] for value in (1, 2)} == {v: counts[v] for v in (1, 2)}


def test_open_splits_divides_only_single_images_that_are_read_in_tiles(aerial: Path) -> None:
    whole = divided(ObjectDetection(), aerial)
    assert whole.validation is None
    assert "validation: none, since there is a single row" in whole.notes
    assert (
        divided(ObjectDetection(tile={"size": 48, "overlap": 8}), aerial, validation=0).validation
        is None
    )
    for number in range(2):
        folder = aerial / "classes" / f"class{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (400, 100), (number * 90, 9, 9)).save(folder / "1.png")
    classes = divided(ImageClassification(), aerial / "classes", validation=0)
    assert len(classes.train) == 2
