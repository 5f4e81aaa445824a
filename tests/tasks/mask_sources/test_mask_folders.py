"""Folders of images and masks, and the legends beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from finetune.errors import DataError
from tasks.mask_sources.legends import Labels, read_legend
from tasks.mask_sources.mask_folders import MASK_FORMATS, read_mask_folder, read_masks
from tasks.masks.mask_reader import MaskReader
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.masks.segments import draw_prediction, to_segments
from tests.support.masks import MASK
from tests.support.tiny_scenes import SHAPES, save_mask


def legend_of(folder: Path) -> Labels | None:
    legend = read_legend(folder)
    return legend and legend.labels


def test_read_mask_folder_reads_splits_of_images_and_masks(scenes: Path) -> None:
    splits = read_mask_folder(scenes)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "test": 12}
    assert splits["train"][0]["file"] == "train/images/00000.jpg"
    assert legend_of(scenes) == list(SHAPES)


def test_read_mask_folder_reads_split_folders_and_pascal_voc(tmp_path: Path) -> None:
    for split, folder in (("training", "a"), ("validation", "b")):
        save_mask(tmp_path / "one" / "images" / split / f"{folder}.png", MASK)
        save_mask(tmp_path / "one" / "annotations" / split / f"{folder}_mask.png", MASK)
    assert list(read_mask_folder(tmp_path / "one")) == ["train", "validation"]
    assert read_mask_folder(tmp_path / "one")["train"][0]["mask"].endswith("a_mask.png")
    for name in "abc":
        save_mask(tmp_path / "voc" / "JPEGImages" / f"{name}.png", MASK)
    for name in "ab":
        save_mask(tmp_path / "voc" / "SegmentationClass" / f"{name}.png", MASK)
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    (tmp_path / "voc" / "labelmap.txt").write_text("# a comment\nground:0,0,0::\ncar:255,0,0::\n")
    splits = read_mask_folder(tmp_path / "voc")
    assert {split: [Path(row["image"]).stem for row in rows] for split, rows in splits.items()} == {
        "train": ["a"],
        "validation": ["b"],
    }
    assert legend_of(tmp_path / "voc") == {"ground": [0, 0, 0], "car": [255, 0, 0]}
    assert read_mask_folder(tmp_path) == {}
    (tmp_path / "one" / "labels").mkdir()
    assert not [each for each in MASK_FORMATS if each.claims(tmp_path / "nowhere", "auto")]
    with pytest.raises(DataError, match="no images with masks found"):
        read_masks(tmp_path / "one" / "labels")


def test_read_masks_finds_pascal_voc_inside_a_devkit(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        for folder in ("JPEGImages", "SegmentationClass"):
            save_mask(tmp_path / year / folder / "a.png", MASK)
        lists = tmp_path / year / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\n")
        if year == "VOC2007":
            tables = read_masks(tmp_path)
            assert tables.splits["train"][0]["file"] == "JPEGImages/a.png"
    with pytest.raises(
        DataError, match="contains VOC2007, VOC2012; choose one of them, such as .*VOC2012"
    ):
        read_masks(tmp_path)


def test_read_masks_counts_masks_without_an_image(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png", "masks/b.png", "masks/c.npy"):
        save_mask(tmp_path / name, MASK)
    (note,) = read_masks(tmp_path).notes
    assert note.startswith("masks without an image, ignored: 2 (")
    assert note.endswith("c.npy)")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\ncar:255,0,9::\n"),
        ("class_dict.csv", "name, r, g, b\nground,0,0,0\ncar,255,0,9\n"),
        ("legend.tsv", "value\tcolor\tclass\n0\t#000000\tground\n1\t#ff0009\tcar\n"),
    ],
)
def test_read_legend_reads_colors(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert legend_of(tmp_path) == {"ground": [0, 0, 0], "car": [255, 0, 9]}
    (tmp_path / name).write_text(f"{text}nonsense\n")
    with pytest.raises(DataError, match="line [34]: 'nonsense' is not "):
        read_legend(tmp_path)


def test_read_legend_reads_the_legend_of_drawn_masks(tmp_path: Path) -> None:
    prediction = {"segments": to_segments(torch.tensor(MASK), torch.ones(3, 3), "abc")}
    mask, _ = draw_prediction(Image.new("RGB", (3, 3)), prediction, "abc", tmp_path, "1")
    reader = MaskReader(SegmentationConfig(labels=legend_of(tmp_path)))
    coding, _ = reader.learn([{"mask": str(mask)}])
    classes = reader.classes({"mask": str(mask)}, (3, 3), coding)
    assert classes is not None
    assert classes.tolist() == MASK.tolist()


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, ground\n1, car\n", ["ground", "car"]),
        ("_classes.csv", "Pixel Value, Class\n0, ground\n7, car\n", {"ground": 0, "car": 7}),
        ("codes.txt", "ground\ncar\n", ["ground", "car"]),
        ("label_colors.txt", "0 0 0\tground\n255 0 9\tcar\n", {"ground": [0, 0, 0], "car": [255, 0, 9]}),
        ("class_dict.csv", "class,red,green,blue\nground,0,0,0\n", {"ground": [0, 0, 0]}),
    ],
)  # fmt: skip
def test_read_legend_reads_names_by_value(
    name: str, text: str, labels: Labels, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert legend_of(tmp_path) == labels
