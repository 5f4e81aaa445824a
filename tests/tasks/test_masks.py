"""Masks as people have them: what their values mean is found by looking, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import ConfigError, DataError
from tasks import Segmentation
from tasks.annotations.coco import find_coco, read_coco, split_of
from tasks.annotations.mask_folders import read_legend, read_mask_folder
from tasks.annotations.masks import NO_OBJECT, find_facts, paint_objects, read_mask
from tasks.masks.coding import MaskCoding, learn_coding
from tasks.vision.joint_augmentation import IGNORE
from tests.tiny_scenes import SHAPES, SIZE, save_mask, scene_folder

SQUARE = np.array([[0, 0, 1], [0, 2, 2], [1, 1, 0]])


def learned(
    *cells: Any, labels: Any = None, ignore: Any = None, encoding: Any = "auto"
) -> MaskCoding:
    return learn_coding([find_facts(cell) for cell in cells], labels, ignore, encoding)


def coded(coding: MaskCoding, cell: Any) -> list[list[int]]:
    return coding.classes(read_mask(cell)[0]).tolist()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("data") / "scenes", 6, 3)


# ---- what values mean


@pytest.mark.parametrize("name", ["index.png", "values.npy", "palette.png", "deep.png", "grey.png"])
def test_every_kind_of_file_says_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "palette.png":
        image = Image.fromarray(SQUARE.astype(np.uint8))
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
        image.save(path)
        assert Image.open(path).mode == "P"
    elif name == "deep.png":
        Image.fromarray(SQUARE.astype(np.uint16)).save(path)
    elif name == "grey.png":
        Image.fromarray(SQUARE.astype(np.uint8)).convert("RGB").save(path)
    else:
        save_mask(path, SQUARE)
    for cell in (str(path), {"bytes": path.read_bytes(), "path": None}):
        coding = learned(cell)
        assert coding.names == ("class 0", "class 1", "class 2")
        assert coded(coding, cell) == SQUARE.tolist()
        assert coding == MaskCoding.from_state(json.loads(json.dumps(coding.state())))


def test_colours_are_classes_named_by_a_legend(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 64]], np.uint8)
    path = str(save_mask(tmp_path / "a.png", colors[SQUARE]))
    assert learned(path).names == ("#000000", "#008040", "#ff0000")
    legend = {"ground": [0, 0, 0], "car": "#ff0000", "tree": [0, 128, 64]}
    coding = learned(path, labels=legend)
    assert coding.names == ("ground", "car", "tree")
    assert coded(coding, path) == SQUARE.tolist()
    without_car = {"ground": [0, 0, 0], "tree": [0, 128, 64]}
    with pytest.raises(DataError, match=r"no class: #ff0000 \(in 1\); name them in task.labels"):
        learned(path, labels=without_car)
    left_out = learned(path, labels=without_car, ignore=["#ff0000"])
    assert coded(left_out, path) == [[0, 0, IGNORE], [0, 1, 1], [IGNORE, IGNORE, 0]]
    with pytest.raises(DataError, match="labels need them too"):
        learned(path, labels=["ground", "car", "tree"])


@pytest.mark.parametrize("top", [1, 255])
def test_two_values_are_background_and_foreground(top: int, tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", (SQUARE > 0) * top))
    coding = learned(path)
    assert coding.names == ("background", "foreground")
    assert coded(coding, path) == (SQUARE > 0).astype(int).tolist()
    assert coding.ignored == ()
    assert learned(path, labels=["skin", "scar"]).names == ("skin", "scar")


def test_255_is_ignored_where_there_are_other_classes(tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", np.where(SQUARE == 2, 255, SQUARE)))
    coding = learned(path)
    assert coding.names == ("class 0", "class 1")
    assert coded(coding, path)[1] == [0, IGNORE, IGNORE]
    assert coded(learned(path, ignore=[0]), path)[0] == [IGNORE, IGNORE, 0]


def test_values_from_1_are_the_first_class_and_0_is_ignored_where_names_say_so(
    tmp_path: Path,
) -> None:
    path = str(save_mask(tmp_path / "a.png", SQUARE))
    coding = learned(path, labels=["wall", "floor"])
    assert coding.values == (1, 2)
    assert coded(coding, path) == [[IGNORE, IGNORE, 0], [IGNORE, 1, 1], [0, 0, IGNORE]]
    assert learned(path, encoding="one-based").names == ("class 1", "class 2")
    assert learned(path, labels=["a", "b", "c"]).values == (0, 1, 2)
    with pytest.raises(DataError, match=r"values that are no class: 2"):
        learned(path, labels=["a", "b"], encoding="index")


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    with pytest.raises(DataError, match="so it is no mask; a mask that was saved as JPEG"):
        learned(str(save_mask(tmp_path / "noise.png", noise)))
    with pytest.raises(DataError, match="integers"):
        learned(str(save_mask(tmp_path / "a.npy", SQUARE / 2)))
    with pytest.raises(DataError, match="hold only class 0"):
        learned(str(save_mask(tmp_path / "empty.png", SQUARE * 0)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_mask(str(tmp_path / "broken.png"))
    with pytest.raises(ConfigError, match="'red' is no value"):
        learned(str(tmp_path / "a.png"), labels={"a": "red"}) if save_mask(
            tmp_path / "a.png", SQUARE
        ) else None


def test_unknown_values_of_another_split_are_told(tmp_path: Path) -> None:
    coding = learned(str(save_mask(tmp_path / "a.png", SQUARE)))
    other = find_facts(str(save_mask(tmp_path / "b.png", SQUARE + 5)))
    assert coding.unknown(other) == ["5", "6", "7"]
    colors = find_facts(str(save_mask(tmp_path / "c.png", np.eye(3)[..., None] * [9, 0, 0])))
    assert coding.unknown(colors) == ["of kind color"]


# ---- where masks lie


def test_splits_with_pictures_and_masks_are_read(scenes: Path) -> None:
    splits = read_mask_folder(scenes)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "test": 3}
    assert splits["train"][0]["file"] == "train/images/00000.jpg"
    assert read_legend(scenes) == list(SHAPES)


def test_other_layouts_are_read(tmp_path: Path) -> None:
    for split, folder in (("training", "a"), ("validation", "b")):
        save_mask(tmp_path / "one" / "images" / split / f"{folder}.png", SQUARE)
        save_mask(tmp_path / "one" / "annotations" / split / f"{folder}_mask.png", SQUARE)
    assert list(read_mask_folder(tmp_path / "one")) == ["train", "validation"]
    assert read_mask_folder(tmp_path / "one")["train"][0]["mask"].endswith("a_mask.png")
    for name in "abc":
        save_mask(tmp_path / "voc" / "JPEGImages" / f"{name}.png", SQUARE)
    for name in "ab":
        save_mask(tmp_path / "voc" / "SegmentationClass" / f"{name}.png", SQUARE)
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    (tmp_path / "voc" / "labelmap.txt").write_text("# a comment\nground:0,0,0::\ncar:255,0,0::\n")
    found = read_mask_folder(tmp_path / "voc")
    assert {split: [Path(row["image"]).stem for row in rows] for split, rows in found.items()} == {
        "train": ["a"],
        "validation": ["b"],
    }
    assert read_legend(tmp_path / "voc") == {"ground": [0, 0, 0], "car": [255, 0, 0]}
    assert read_mask_folder(tmp_path) == {}
    (tmp_path / "one" / "labels").mkdir()
    assert Segmentation().read(tmp_path / "nowhere", "auto") is None
    with pytest.raises(DataError, match="holds no pictures with masks"):
        Segmentation().read(tmp_path / "one" / "labels", "voc")


# ---- COCO


def test_coco_gives_the_masks_that_were_drawn(scenes: Path) -> None:
    rows = read_coco(scenes)["train"]
    assert len(rows) == 6
    assert rows[0]["objects"] == []
    for row in rows:
        file = Path(row["image"].replace("/images/", "/masks/")).with_suffix(".png")
        drawn = np.asarray(Image.open(file)).astype(int)
        painted = paint_objects(row["objects"], (SIZE[1], SIZE[0]))
        assert np.array_equal(np.where(painted == NO_OBJECT, 0, painted), drawn)


def test_coco_polygons_are_painted_small_ones_last(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    corners = [[0, 0, 8, 0, 8, 8, 0, 8], [2, 2, 4, 2, 4, 4, 2, 4]]
    held: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 9, "segmentation": [corners[1]], "area": 4},
            {"image_id": 1, "category_id": 3, "segmentation": [corners[0]], "area": 64},
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(held))
    rows = read_coco(tmp_path / "all.json")["train"]
    painted = paint_objects(rows[0]["objects"], (8, 8))
    assert (painted == 9).sum() == 4
    assert (painted == 3).sum() == 60
    held["annotations"][0]["category_id"] = 4
    (tmp_path / "all.json").write_text(json.dumps(held))
    with pytest.raises(DataError, match="is no whole COCO file: KeyError 4"):
        read_coco(tmp_path / "all.json")
    (tmp_path / "all.json").write_text('{"images": []}')
    assert find_coco(tmp_path / "all.json") == {}
    with pytest.raises(DataError, match="holds no COCO annotations"):
        read_coco(tmp_path / "all.json")


def test_the_split_is_a_word_of_the_name() -> None:
    assert split_of("instances_train2017") == "train"
    assert split_of("valid") == "validation"
    assert split_of("_annotations.coco") is None
