"""labelme: files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.image.joint_augmentation import IGNORE
from tests.support.annotated_sets import (
    BOX,
    MASK,
    read_boxes,
    read_classes,
    refusal,
    save_picture,
    save_pictures,
    write_json,
    write_text,
)
from tests.support.tool_exports import (
    BOTTOM,
    CORNERS,
    FULL,
    LEFT,
    RIGHT,
    TOP,
    as_text,
    labelme,
    png,
    shape,
)

SQUARE = ("square", *BOX)


def write(folder: Path, *shapes: Any, image: str = "a.jpg", **more: Any) -> Path:
    save_pictures(folder, ["a.jpg"])
    write_json(folder / "a.json", labelme(list(shapes), image, **more))
    return folder


def test_rectangles_may_be_drawn_from_any_corner(tmp_path: Path) -> None:
    drawn = shape("rectangle", [[RIGHT, BOTTOM], [LEFT, TOP]])
    assert read_boxes(write(tmp_path, drawn))[0] == [[SQUARE]]


def test_rectangles_may_have_all_corners(tmp_path: Path) -> None:
    assert read_boxes(write(tmp_path, shape("rectangle")))[0] == [[SQUARE]]


def test_circles_are_polygons_around_their_center(tmp_path: Path) -> None:
    rows, notes = read_boxes(write(tmp_path, shape("circle", [[30, 30], [40, 30]])))
    assert rows == [[("square", 20, 20, 40, 40)]]
    assert "circles read as polygons: 1" in notes


def test_masks_lie_at_their_first_point(tmp_path: Path) -> None:
    drawn = shape("mask", [[LEFT, TOP], [RIGHT - 1, BOTTOM - 1]], mask=as_text(png(FULL)))
    assert read_classes(write(tmp_path, drawn))[0] == [MASK.tolist()]


def test_points_and_lines_and_flags_are_counted(tmp_path: Path) -> None:
    shapes = [shape(), shape("point", [[1, 1]]), shape("line", [[1, 1], [2, 2]])]
    _, notes = read_boxes(write(tmp_path, *shapes, flags={"blurred": True, "dark": False}))
    assert "not read: points (1), lines (1)" in notes
    assert "labels of whole images, not read: blurred (1)" in notes


@pytest.mark.parametrize(
    ("drawn", "fault"),
    [
        (shape(points=[[1, 1], [2, 2]]), "polygon has 2 points; 3 are needed"),
        (shape("rectangle", [[1, 1]]), "rectangle has 1 points, not 2"),
        (shape("star"), "shape_type 'star' is unknown"),
        (shape(points=[[1, "x"], [2, 2], [3, 3]]), "are not all numbers"),
        (shape(label=None), "has no label"),
        (shape("mask", [[1, 1], [9, 9]], mask="///"), "bitmap cannot be decoded"),
    ],
)
def test_malformed_shapes_are_faults_with_their_place(
    drawn: Any, fault: str, tmp_path: Path
) -> None:
    message = refusal(write(tmp_path, drawn))
    assert f"a.json, shape 1: {fault}" in message or (fault in message and "shape 1" in message)


def test_images_are_found_beside_other_folders_by_file_name(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images" / "train", ["a.jpg", "b.jpg", "c.jpg"])
    for name in "ab":
        content = labelme([shape()], "..\\frames\\old.jpg", imageData="QUJD" * 9000)
        write_json(tmp_path / "labels" / "train" / f"{name}.json", content)
    rows, notes = read_boxes(tmp_path)
    assert rows == [[SQUARE], [SQUARE]]
    assert any(note.startswith("labels/train: 2 images found by the name") for note in notes)
    assert "images without annotations, not read: 1 (c.jpg)" in notes
    assert "not read: images embedded in .json files (2)" in notes


def embedded(folder: Path) -> str:
    """Return the imageData of a picture that is not in the folder."""
    save_picture(folder / "x.jpg")
    content = (folder / "x.jpg").read_bytes()
    (folder / "x.jpg").unlink()
    return as_text(content)


def test_embedded_images_are_read_where_there_is_no_file(tmp_path: Path) -> None:
    data = embedded(tmp_path)
    write(tmp_path, shape())
    for name in "bc":
        write_json(tmp_path / f"{name}.json", labelme([shape()], "a.json", imageData=data))
    rows, notes = read_boxes(tmp_path)
    assert rows == [[SQUARE]] * 3
    assert "images read from imageData of their .json files: 2" in notes
    assert not any(note.startswith("not read") for note in notes)
    assert read_classes(tmp_path)[0] == [MASK.tolist()] * 3


def test_embedded_data_that_is_no_image_is_a_fault_of_its_row(tmp_path: Path) -> None:
    write(tmp_path, shape())
    write_json(tmp_path / "b.json", labelme([shape()], "b.jpg", imageData="QUJD"))
    write_json(tmp_path / "c.json", labelme([shape()], "c.jpg", imageData="a"))
    message = refusal(tmp_path)
    assert "2 of 3 rows are invalid" in message
    assert "c.jpg: image does not exist" in message


def test_the_file_beside_it_is_read_if_image_path_names_the_annotations(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    file = write_json(tmp_path / "a.json", labelme([shape()], "a.json", imageData="QUJD"))
    rows, notes = read_boxes(file)
    assert rows == [[SQUARE]]
    assert "not read: images embedded in .json files (1)" in notes


def test_copies_with_one_image_path_are_told_apart_by_file_name(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg"])
    for name in "ab":
        write_json(tmp_path / f"{name}.json", labelme([shape()], "a.jpg"))
    _, notes = read_boxes(tmp_path)
    assert not any("without annotations" in note or "duplicates" in note for note in notes)


def test_long_image_data_before_the_shapes_does_not_hide_them(tmp_path: Path) -> None:
    content = labelme([shape()])
    reordered = {"imageData": "QUJD" * 500_000, **{k: v for k, v in content.items() if v}}
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "a.json", {**reordered, "imageData": "QUJD" * 500_000})
    assert read_boxes(tmp_path)[0] == [[SQUARE]]


def write_folders(folder: Path, names: str) -> None:
    for index, name in enumerate("ab"):
        place = folder / f"{name}_json"
        save_picture(place / "img.png", index)
        Image.fromarray(MASK).save(place / "label.png")
        write_text(place / "label_names.txt", names)


def test_folders_of_masks_are_read_by_the_names_of_their_values(tmp_path: Path) -> None:
    write_folders(tmp_path, "_background_\nsquare\n")
    rows, notes = read_classes(tmp_path)
    assert rows == [MASK.tolist()] * 2
    assert "masks: categories elsewhere background, square; ignored: nothing" in notes


def test_values_without_a_name_are_faults(tmp_path: Path) -> None:
    from tasks import Segmentation

    write_folders(tmp_path, "_background_\n")
    message = refusal(tmp_path, Segmentation())
    assert "label.png has the value 1, which label_names.txt does not name" in message


def test_mirrored_corners_are_the_same_polygon(tmp_path: Path) -> None:
    assert read_classes(write(tmp_path, shape(points=CORNERS[::-1])))[0] == [MASK.tolist()]


def test_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    left, right = [[10, 10], [20, 10], [20, 20]], [[40, 10], [50, 10], [50, 30]]
    shapes = [
        shape(points=left, group_id=1),
        shape(points=right, group_id=1),
        shape(points=left, group_id=1, label="other"),
        shape("rectangle", [[1, 1], [5, 5]], group_id=2),
        shape("rectangle", [[7, 7], [9, 9]], group_id=2),
        shape(points=right),
    ]
    (objects,), notes = read_boxes(write(tmp_path, *shapes))
    assert objects == [
        ("square", 10, 10, 50, 30),
        ("other", 10, 10, 20, 20),
        ("square", 1, 1, 9, 9),
        ("square", 40, 10, 50, 30),
    ]
    assert "shapes joined to the object of their group: 2" in notes


def test_labels_with_a_meaning_of_their_own_are_no_classes(tmp_path: Path) -> None:
    ignored = shape(points=[[0, 0], [9, 0], [9, 9], [0, 9]], label="__ignore__")
    background = shape(points=[[20, 0], [29, 0], [29, 9], [20, 9]], label="_background_")
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "a.json", labelme([shape(), ignored, background]))
    rows, notes = read_boxes(tmp_path)
    assert rows == [[("square", *BOX)]]
    assert "areas to ignore (__ignore__), not read: 1" in notes
    assert "not read: shapes of _background_ (1)" in notes
    (classes,), notes = read_classes(tmp_path)
    assert classes[4][4] == IGNORE
    assert classes[4][24] == 0
    assert any(note.endswith("ignored: nothing (labels __ignore__)") for note in notes)
