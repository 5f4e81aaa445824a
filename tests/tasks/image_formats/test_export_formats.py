"""Exports of all annotation tools, read as boxes and as masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.formats import DataFormat
from finetune.config.schema import DataConfig
from tasks import ObjectDetection, Segmentation
from tasks.detection.detection_config import ObjectDetectionConfig
from tests.support.annotated_sets import (
    BOX,
    MASK,
    open_set,
    read_boxes,
    read_classes,
    refusal,
    save_pictures,
    write_json,
)
from tests.support.tool_exports import CREATEML, FILES, write_export

TOOLS = {
    "labelme": "labelme",
    "cvat": "CVAT",
    "label-studio": "Label Studio",
    "createml": "CreateML",
    "via": "VGG Image Annotator",
    "supervisely": "Supervisely",
    "vott": "VoTT",
    "fiftyone": "FiftyOne",
}
BOXES_ALONE = ("createml", "vott", "fiftyone")
SQUARE = ("square", *BOX)


def claiming(path: Path) -> list[str]:
    """Return the names of the formats that claim a path."""
    formats: tuple[DataFormat, ...] = ObjectDetectionConfig.formats
    return [each.name for each in formats if each.claims(path, "auto")]


@pytest.mark.parametrize("name", FILES)
def test_exports_are_claimed_by_their_own_format_alone(name: str, tmp_path: Path) -> None:
    assert set(claiming(write_export(tmp_path, name))) - {"tsv"} == {name}


@pytest.mark.parametrize("name", TOOLS)
def test_exports_read_as_boxes_say_the_tool(name: str, tmp_path: Path) -> None:
    rows, notes = read_boxes(write_export(tmp_path, name))
    assert set(rows[0]) == {SQUARE}
    assert f"{tmp_path}: read as an export of {TOOLS[name]}" in notes


@pytest.mark.parametrize("name", [name for name in TOOLS if name not in BOXES_ALONE])
def test_exports_read_as_masks_fill_their_outlines(name: str, tmp_path: Path) -> None:
    rows, notes = read_classes(write_export(tmp_path, name))
    assert rows == [MASK.tolist()]
    assert "masks: categories elsewhere background, square; ignored: nothing" in notes


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_boxes_alone_are_refused_for_segmentation(name: str, tmp_path: Path) -> None:
    message = refusal(write_export(tmp_path, name), Segmentation())
    assert "its objects (1) are boxes without outlines: task=object-detection" in message


def test_boxes_beside_outlines_are_filled_and_said(tmp_path: Path) -> None:
    _, notes = read_classes(write_export(tmp_path, "labelme"))
    assert "boxes read as masks of their whole area: 1 of 2" in notes


def test_exports_in_split_folders_are_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        save_pictures(tmp_path / split, ["a.jpg"])
        write_json(tmp_path / split / "_annotations.createml.json", CREATEML)
    splits = open_set(ObjectDetection(), tmp_path, validation=None, test=None)
    assert {name: len(rows) for name, rows in splits.named.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


def test_several_exports_of_a_split_are_refused(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    for name in ("one.json", "two.json"):
        write_json(tmp_path / name, CREATEML)
    assert "split train has several exports: one.json, two.json; set data.train" in refusal(
        tmp_path
    )


def test_exports_without_their_images_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", CREATEML)
    message = refusal(tmp_path / "c.json")
    assert f"image 'a.jpg' not found, nor any other of 1; looked for {tmp_path}/a.jpg" in message
    assert "data.images=FOLDER" in message


def test_a_missing_image_among_others_is_a_fault_of_its_row(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    write_json(tmp_path / "c.json", [*CREATEML, {**CREATEML[0], "image": "gone.jpg"}])
    assert "gone.jpg: image does not exist" in refusal(tmp_path)
    rows, notes = read_boxes(tmp_path, on_error="skip")
    assert len(rows) == 1
    assert "images without annotations, not read: 1 (b.jpg)" in notes


@pytest.mark.parametrize("label", [None, "", "  "])
def test_objects_without_a_label_are_faults(label: str | None, tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    content = [
        {"image": "a.jpg", "annotations": [{**CREATEML[0]["annotations"][0], "label": label}]}
    ]
    write_json(tmp_path / "c.json", content)
    assert "c.json, entry 1, annotation 1: has no label" in refusal(tmp_path)


def test_boxes_out_of_their_image_are_clipped_on_demand(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    box = {"x": 90, "y": 48, "width": 40, "height": 14}
    annotation = {"label": "square", "coordinates": box}
    write_json(tmp_path / "c.json", [{"image": "a.jpg", "annotations": [annotation]}])
    assert "extends beyond the image of 96 x 72 pixels" in refusal(tmp_path)
    (objects,), _ = read_boxes(tmp_path, on_error="clip")
    assert objects == [("square", 70, 41, 110, 55)]


def test_categories_have_the_same_numbers_in_files_read_apart(tmp_path: Path) -> None:
    for name, label in (("one", "square"), ("two", "ball")):
        write_export(tmp_path / name, "labelme")
        file = tmp_path / name / "a.json"
        file.write_text(file.read_text().replace("square", label))
    other = write_export(tmp_path / "three", "labelme")
    task = Segmentation()
    formats = {each.name: each for each in task.config.formats}
    rows = [
        formats["labelme"].read(path, DataConfig()).splits["train"][0]
        for path in (tmp_path / "one", tmp_path / "two", other)
    ]
    numbers = [row["objects"][0]["category_id"] for row in rows]
    assert numbers[0] == numbers[2] != numbers[1]
