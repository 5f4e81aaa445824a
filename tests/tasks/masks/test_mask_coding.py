"""Mapping of mask values to classes, learned from masks and config keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import ConfigError, DataError
from tasks import Segmentation
from tasks.image.joint_augmentation import IGNORE
from tasks.mask_sources.mask_files import NO_OBJECT, find_facts
from tasks.masks.mask_coding import MaskCoding, learn_coding
from tests.support.masks import CATEGORIES, MASK, learn, summarize_objects, to_classes
from tests.support.tiny_scenes import save_mask


def test_learn_coding_names_colors_by_labels(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 64]], np.uint8)
    path = str(save_mask(tmp_path / "a.png", colors[MASK]))
    assert learn(path).names == ("#000000", "#008040", "#ff0000")
    legend = {"ground": [0, 0, 0], "car": "#ff0000", "tree": [0, 128, 64]}
    coding = learn(path, labels=legend)
    assert coding.names == ("ground", "car", "tree")
    assert to_classes(coding, path) == MASK.tolist()
    without_car = {"ground": [0, 0, 0], "tree": [0, 128, 64]}
    with pytest.raises(
        DataError, match=r"without a class: #ff0000 \(1 mask\); add them to task.labels"
    ):
        learn(path, labels=without_car)
    left_out = learn(path, labels=without_car, ignore=["#ff0000"])
    assert to_classes(left_out, path) == [[0, 0, IGNORE], [0, 1, 1], [IGNORE, IGNORE, 0]]
    with pytest.raises(DataError, match="labels must map names to colors"):
        learn(path, labels=["ground", "car", "tree"])


@pytest.mark.parametrize("top", [1, 255])
def test_learn_coding_reads_two_values_as_background_and_foreground(
    top: int, tmp_path: Path
) -> None:
    path = str(save_mask(tmp_path / "a.png", (MASK > 0) * top))
    coding = learn(path)
    assert coding.names == ("background", "foreground")
    assert to_classes(coding, path) == (MASK > 0).astype(int).tolist()
    assert coding.ignored == ()
    assert learn(path, labels=["skin", "scar"]).names == ("skin", "scar")


def test_learn_coding_ignores_255_beside_other_classes(tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", np.where(MASK == 2, 255, MASK)))
    coding = learn(path)
    assert coding.names == ("class 0", "class 1")
    assert to_classes(coding, path)[1] == [0, IGNORE, IGNORE]
    assert to_classes(learn(path, ignore=[0]), path)[0] == [IGNORE, IGNORE, 0]


def test_learn_coding_detects_one_based_values_from_labels(
    tmp_path: Path,
) -> None:
    path = str(save_mask(tmp_path / "a.png", MASK))
    coding = learn(path, labels=["wall", "floor"])
    assert coding.values == (1, 2)
    assert to_classes(coding, path) == [[IGNORE, IGNORE, 0], [IGNORE, 1, 1], [0, 0, IGNORE]]
    assert learn(path, encoding="one-based").names == ("class 1", "class 2")
    assert learn(path, labels=["a", "b", "c"]).values == (0, 1, 2)
    with pytest.raises(DataError, match=r"values without a class: 2"):
        learn(path, labels=["a", "b"], encoding="index")


def test_mask_coding_lists_unknown_values(tmp_path: Path) -> None:
    coding = learn(str(save_mask(tmp_path / "a.png", MASK)))
    other = find_facts(str(save_mask(tmp_path / "b.png", MASK + 5)))
    assert coding.unknown(other) == ["5", "6", "7"]
    colors = find_facts(str(save_mask(tmp_path / "c.png", np.eye(3)[..., None] * [9, 0, 0])))
    assert coding.unknown(colors) == ["of kind color"]


def test_task_ignore_removes_classes(tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", MASK))
    coding = learn(path, labels=["a", "b", "c"], ignore=[1])
    assert coding.names == ("a", "c")
    assert to_classes(coding, path) == [[0, 0, IGNORE], [0, 1, 1], [IGNORE, IGNORE, 0]]
    assert coding.describe().endswith("0 a, 2 c; ignored: 1 (labels b)")
    assert coding == MaskCoding.from_state(json.loads(json.dumps(coding.state())))
    named = learn(path, labels={"a": 0, "b": 1, "c": 2}, ignore=[0])
    assert (named.names, named.ignored) == (("b", "c"), (0,))
    with pytest.raises(DataError, match="contain only class 2; at least two"):
        learn(path, ignore=[0, 1], encoding="one-based")
    four = str(save_mask(tmp_path / "b.png", np.arange(25).reshape(5, 5) % 5))
    coding = learn(four, ignore=[0, 1, 2], encoding="one-based")
    assert (coding.names, coding.ignored) == (("class 3", "class 4"), (0, 1, 2))
    assert Segmentation(ignore=255).config.ignore == [255]


@pytest.mark.parametrize("encoding", ["color", "index"])
def test_task_encoding_must_match_the_masks(encoding: str, tmp_path: Path) -> None:
    values = MASK if encoding == "color" else np.eye(3)[..., None] * [9, 0, 0]
    path = save_mask(tmp_path / ("a.npy" if encoding == "color" else "a.png"), values)
    with pytest.raises(DataError, match=f"task.encoding={encoding}: masks have"):
        learn(str(path), encoding=encoding)


def test_learn_coding_names_the_first_mask_with_an_unknown_value(tmp_path: Path) -> None:
    facts = [find_facts(MASK + 7 * (n > 0)) for n in range(3)]
    with pytest.raises(DataError, match=r"without a class: 7 \(2 masks, first b.png\), 8 \(2"):
        learn_coding(facts, ["a", "b", "c"], None, "index", None, ["a.png", "b.png", "c.png"])


def test_task_labels_selects_and_orders_coco_categories() -> None:
    facts = [summarize_objects(3, 9)]
    assert learn_coding(facts, None, None, "auto", CATEGORIES).names[1:] == ("dog", "cat", "cow")
    coding = learn_coding(facts, ["cat", "dog"], None, "auto", CATEGORIES)
    assert (coding.names, coding.values) == (("background", "cat", "dog"), (NO_OBJECT, 9, 3))
    coding = learn_coding(
        facts, {"pet": "cat", "background": "background", "hund": 3}, None, "auto", CATEGORIES
    )
    assert (coding.names, coding.values) == (("pet", "background", "hund"), (9, NO_OBJECT, 3))
    coding = learn_coding(facts, None, ["dog"], "auto", CATEGORIES)
    assert (coding.names, coding.ignored) == (("background", "cat", "cow"), (3,))
    with pytest.raises(
        ConfigError, match="task.labels: no training object has category 'dgo'; did you mean"
    ):
        learn_coding(facts, ["dgo"], None, "auto", CATEGORIES)


def test_learn_coding_refuses_255_as_the_last_of_values_that_are_spread(tmp_path: Path) -> None:
    path = str(save_mask(tmp_path / "a.png", np.array([0, 128, 255])[MASK]))
    with pytest.raises(DataError, match=r"values 0, 128, 255: .* task.ignore=\[\] makes it one"):
        learn(path)
    assert learn(path, ignore=[]).values == (0, 128, 255)
    assert learn(path, ignore=[255]).values == (0, 128)
