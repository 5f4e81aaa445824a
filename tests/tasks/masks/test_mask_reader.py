"""Masks as people have them: what their values mean is found by looking, or refused with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.errors import ConfigError, DataError
from tasks import Segmentation
from tasks.annotations.coco import find_coco, read_coco, split_of
from tasks.annotations.legends import read_legend
from tasks.annotations.mask_files import (
    NO_OBJECT,
    count_values,
    find_facts,
    paint_objects,
    read_mask,
)
from tasks.annotations.mask_folders import MASK_FORMATS, read_mask_folder, read_masks
from tasks.image.joint_augmentation import IGNORE
from tasks.masks.mask_coding import MaskCoding, learn_coding
from tasks.masks.mask_reader import MaskReader
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.masks.segments import draw_prediction, segments
from tests.support.contract import resolve
from tests.support.tiny_scenes import SHAPES, SIZE, save_mask, scene_folder

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
    for content, what in ((b"", "is empty"), (b"\x89PNG no", "is no picture in a format")):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(DataError, match=what):
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


def test_an_ignored_value_is_no_class_and_stands_once(tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", SQUARE))
    coding = learned(path, labels=["a", "b", "c"], ignore=[1])
    assert coding.names == ("a", "c")
    assert coded(coding, path) == [[0, 0, IGNORE], [0, 1, 1], [IGNORE, IGNORE, 0]]
    assert coding.describe().endswith("0 a, 2 c; ignored: 1, so no class: b")
    assert coding == MaskCoding.from_state(json.loads(json.dumps(coding.state())))
    named = learned(path, labels={"a": 0, "b": 1, "c": 2}, ignore=[0])
    assert (named.names, named.ignored) == (("b", "c"), (0,))
    with pytest.raises(DataError, match="hold only class 2; give two"):
        learned(path, ignore=[0, 1], encoding="one-based")
    four = str(save_mask(tmp_path / "b.png", np.arange(25).reshape(5, 5) % 5))
    coding = learned(four, ignore=[0, 1, 2], encoding="one-based")
    assert (coding.names, coding.ignored) == (("class 3", "class 4"), (0, 1, 2))
    assert Segmentation(ignore=255).config.ignore == [255]


def test_grey_jpeg_has_lost_its_values(tmp_path: Path) -> None:
    Image.fromarray((np.eye(30) * 255).astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="saved as JPEG has lost its values: save it as PNG"):
        learned(str(tmp_path / "a.jpg"))


def test_a_palette_is_read_as_its_colours_where_those_are_asked_for(tmp_path: Path) -> None:
    image = Image.fromarray(SQUARE.astype(np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.png")
    facts = [find_facts(str(tmp_path / "a.png"), as_colors=True)]
    labels = {"car": "#c80000", "ground": [9, 9, 9], "tree": "#0000c8"}
    coding = learn_coding(facts, labels, None, "color")
    values, _ = read_mask(str(tmp_path / "a.png"), as_colors=True)
    assert coding.classes(values).tolist() == np.array([1, 0, 2])[SQUARE].tolist()


@pytest.mark.parametrize("encoding", ["color", "index"])
def test_an_encoding_that_masks_have_not_is_refused(encoding: str, tmp_path: Path) -> None:
    values = SQUARE if encoding == "color" else np.eye(3)[..., None] * [9, 0, 0]
    path = save_mask(tmp_path / ("a.npy" if encoding == "color" else "a.png"), values)
    with pytest.raises(DataError, match=f"task.encoding={encoding}: masks hold"):
        learned(str(path), encoding=encoding)


def test_an_array_is_a_mask(tmp_path: Path) -> None:
    large = np.kron(SQUARE, np.ones((2, 2), int))
    for cell in (large, large.astype(np.uint8), large.tolist(), large[..., None].tolist()):
        assert coded(learned(cell), cell) == large.tolist()
    with pytest.raises(DataError, match="is list, where a mask is a path, .* an array of integers"):
        read_mask((large / 1).tolist())


def test_an_unknown_value_names_the_first_mask_that_has_it(tmp_path: Path) -> None:
    facts = [find_facts(SQUARE + 7 * (n > 0)) for n in range(3)]
    with pytest.raises(DataError, match=r"no class: 7 \(in 2, the first b.png\), 8 \(in 2"):
        learn_coding(facts, ["a", "b", "c"], None, "index", None, ["a.png", "b.png", "c.png"])


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
    assert not [each for each in MASK_FORMATS if each.claims(tmp_path / "nowhere", "auto")]
    with pytest.raises(DataError, match="holds no pictures with masks"):
        read_masks(tmp_path / "one" / "labels")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\ncar:255,0,9::\n"),
        ("class_dict.csv", "name, r, g, b\nground,0,0,0\ncar,255,0,9\n"),
        ("legend.tsv", "value\tcolor\tclass\n0\t#000000\tground\n1\t#ff0009\tcar\n"),
    ],
)
def test_a_legend_of_colours_is_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_legend(tmp_path) == {"ground": [0, 0, 0], "car": [255, 0, 9]}
    (tmp_path / name).write_text(f"{text}nonsense\n")
    with pytest.raises(DataError, match="is 'nonsense', not "):
        read_legend(tmp_path)


def test_a_drawn_legend_reads_the_masks_that_were_drawn(tmp_path: Path) -> None:
    prediction = {"segments": segments(torch.tensor(SQUARE), torch.ones(3, 3), "abc")}
    mask, _ = draw_prediction(Image.new("RGB", (3, 3)), prediction, "abc", tmp_path, "1")
    reader = MaskReader(SegmentationConfig(labels=read_legend(tmp_path)))
    coding, _ = reader.learn([{"mask": str(mask)}])
    classes = reader.classes({"mask": str(mask)}, (3, 3), coding)
    assert classes is not None
    assert classes.tolist() == SQUARE.tolist()


def test_a_folder_of_pascal_voc_is_found_in_its_devkit(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        for folder in ("JPEGImages", "SegmentationClass"):
            save_mask(tmp_path / year / folder / "a.png", SQUARE)
        lists = tmp_path / year / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\n")
        if year == "VOC2007":
            found = read_masks(tmp_path)
            assert found.splits["train"][0]["file"] == "JPEGImages/a.png"
    with pytest.raises(DataError, match="holds VOC2007, VOC2012; name one: .*VOC2012"):
        read_masks(tmp_path)


def test_masks_without_pictures_are_counted(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png", "masks/b.png", "masks/c.npy"):
        save_mask(tmp_path / name, SQUARE)
    (said,) = read_masks(tmp_path).notes
    assert said.startswith("masks without a picture, which are not used: 2, ")
    assert said.endswith("c.npy")


def test_names_of_folders_are_no_masks() -> None:
    with pytest.raises(DataError, match="column 'label' holds 'images', which is no mask; put a"):
        resolve(Segmentation(), {"image": ["images/a.png"], "label": ["images"]})


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
    with pytest.raises(DataError, match="annotation number 1 has the category_id 4, which the"):
        read_coco(tmp_path / "all.json")
    (tmp_path / "all.json").write_text('{"images": []}')
    assert find_coco(tmp_path / "all.json") == {}
    with pytest.raises(DataError, match="holds no COCO annotations"):
        read_coco(tmp_path / "all.json")


CATEGORIES = {3: "dog", 9: "cat", 12: "cow"}


def test_labels_choose_and_order_categories() -> None:
    facts = [find_facts_of_objects(3, 9)]
    assert learn_coding(facts, None, None, "auto", CATEGORIES).names[1:] == ("dog", "cat", "cow")
    coding = learn_coding(facts, ["cat", "dog"], None, "auto", CATEGORIES)
    assert (coding.names, coding.values) == (("background", "cat", "dog"), (NO_OBJECT, 9, 3))
    coding = learn_coding(
        facts, {"pet": "cat", "background": "background", "hund": 3}, None, "auto", CATEGORIES
    )
    assert (coding.names, coding.values) == (("pet", "background", "hund"), (9, NO_OBJECT, 3))
    coding = learn_coding(facts, None, ["dog"], "auto", CATEGORIES)
    assert (coding.names, coding.ignored) == (("background", "cat", "cow"), (3,))
    with pytest.raises(ConfigError, match="task.labels: no object of train is 'dgo'; did you mean"):
        learn_coding(facts, ["dgo"], None, "auto", CATEGORIES)


def test_objects_that_labels_leave_out_are_background() -> None:
    row = {"mask": [outlined(3, 0), outlined(9, 4)], "image": Image.new("RGB", (8, 8))}
    reader = MaskReader(SegmentationConfig(labels=["dog"]))
    coding, _ = reader.learn([row])
    classes = reader.classes(row, (8, 8), coding)
    assert classes is not None
    assert classes[:, :4].eq(1).all()
    assert classes[:, 4:].eq(0).all()


def test_a_picture_of_any_size_is_compared_with_its_mask(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")  # more than Pillow's own limit
    row = {"mask": np.zeros((8, 8), np.uint8)}
    faults = list(MaskReader(SegmentationConfig()).faults(row, str(tmp_path / "large.png")))
    assert faults == ["mask has 8 x 8 pixels, the image 10000 x 9000"]


def test_a_category_of_another_name_than_in_train_is_a_fault() -> None:
    row = {"mask": [outlined(3, 0), outlined(9, 4)], "image": Image.new("RGB", (8, 8))}
    reader = MaskReader(SegmentationConfig())
    coding, _ = reader.learn([row])
    assert list(reader.faults(row, row["image"])) == list(reader.unseen(row, coding)) == []
    other = {**row, "mask": [{**outlined(3, 0), "category": "wolf"}]}
    (fault,) = reader.unseen(other, coding)
    assert fault == "train.json, annotation 5: category_id 3 is 'wolf', in train 'dog'"


def outlined(category: int, left: float, **keys: Any) -> dict[str, Any]:
    corners = [left, 0, left + 4, 0, left + 4, 8, left, 8]
    own = {"category": CATEGORIES[category], "category_id": category, "area": 32, "counts": ""}
    return {**own, "polygons": [corners], "place": "train.json, annotation 5", **keys}


def find_facts_of_objects(*categories: int) -> Any:
    objects = [outlined(category, 4 * place) for place, category in enumerate(categories)]
    return count_values(paint_objects(objects, (8, 8)), "objects")


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        ([[1, 2, float("nan"), 4, 5, 6]], "its outline has the coordinate nan, far from the image"),
        ([[1, 2, 3, 4, 5, 1e9]], r"its outline has the coordinate 1e\+09"),
        ([1, 2, 3, 4, 5, 6], r"its segmentation is neither \[\[x, y, ...\]\] nor run lengths"),
        ({"size": [8, 8], "counts": "!!!bad"}, "its run lengths cannot be read"),
        ({"size": [10, 10], "counts": "0T3"}, r"of \[height, width\] \[10, 10\], the image has"),
        ({"size": [8, 8], "counts": [5, 5]}, "its segmentation is neither|its run lengths"),
        ({"size": [8, 8], "counts": "05"}, "its run lengths cannot be read"),
    ],
)
def test_a_broken_outline_is_a_fault_of_its_row(
    segmentation: Any, what: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    broken = {"id": 5, "image_id": 1, "category_id": 3, "segmentation": segmentation}
    held = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [broken],
    }
    (tmp_path / "all.json").write_text(json.dumps(held))
    task = Segmentation(image="image", mask="objects")
    (fault,) = task.rows.validate(read_coco(tmp_path / "all.json")["train"][0])
    assert fault.startswith("all.json, annotation 5: ")
    assert re.search(what, fault)


def test_the_split_is_a_word_of_the_name() -> None:
    assert split_of("instances_train2017") == "train"
    assert split_of("valid") == "validation"
    assert split_of("_annotations.coco") is None
