"""YOLO datasets as Ultralytics, Roboflow, Darknet, CVAT and Label Studio write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import ObjectDetection, Segmentation
from tests.support.annotated_sets import (
    BOX,
    LINE,
    MASK,
    read_boxes,
    read_classes,
    refusal,
    save_picture,
    save_pictures,
    write_text,
)

NAMES = ("a.jpg", "b.jpg", "c.jpg")
EXPECTED = [[("square", *BOX)]] * 3
POLYGON = "1 0.79167 0.56944 0.93750 0.56944 0.93750 0.76389 0.79167 0.76389"


def write_yolo(root: Path, description: str = "", line: str = LINE) -> Path:
    """Write images/train and labels/train, and data.yaml if there is a description."""
    save_pictures(root / "images" / "train", NAMES)
    for name in NAMES:
        write_text(root / "labels" / "train" / f"{name[0]}.txt", line)
    if description:
        write_text(root / "data.yaml", description)
    return root


@pytest.mark.parametrize(
    "description",
    [
        "train: images/train\nnames: [circle, square]",
        "train: ../images/train\nval: \nnames: {0: circle, 1: square}\nnc: 2",
        "path: 'C:\\Users\\me\\shapes'\ntrain: images\\train\nnames: [circle, square]",
        "path: /content/shapes\ntrain: images/train\nnames: [circle, square]",
        "path: ../datasets/shapes\ntrain: [images/train]\nnames: [circle, square]",
        "train: [images/train/a.jpg, images/train/b.jpg, images/train/c.jpg]\nnames: [circle, square]",
        "train: train.txt\nnames: [circle, square]",
        "train: images/train\nnames: names.txt",
        "train: images/train\ntest: null\nnames: [circle, square]",
    ],
)
def test_read_yolo_understands_the_paths_of_data_yaml(description: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", description)
    write_text(root / "train.txt", "".join(f"./images/train/{name}\n" for name in NAMES))
    write_text(root / "names.txt", "circle\nsquare\n")
    assert read_boxes(root)[0] == EXPECTED


@pytest.mark.parametrize(
    "prefix", ["images/train/", "/home/me/set/images/train/", "D:\\set\\images\\train\\"]
)
def test_read_yolo_reads_a_list_of_images(prefix: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: lists/train.txt\nnames: [circle, square]")
    write_text(root / "lists" / "train.txt", "\n".join(f"{prefix}{name}" for name in NAMES))
    assert read_boxes(root)[0] == EXPECTED
    write_text(root / "lists" / "train.txt", "\n")
    assert "lists no images" in refusal(root)


def test_read_yolo_reports_a_listed_image_that_is_missing(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: train.txt\nnames: [circle, square]")
    write_text(root / "train.txt", "images/train/a.jpg\nimages/train/z.jpg\n")
    assert "images/train/z.jpg: image does not exist" in refusal(root)


def test_read_yolo_reads_darknet_and_cvat(tmp_path: Path) -> None:
    write_text(
        tmp_path / "obj.data",
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    write_text(tmp_path / "obj.names", "circle\nsquare\n")
    save_pictures(tmp_path / "obj_train_data", NAMES)
    for name in NAMES:
        write_text(tmp_path / "obj_train_data" / f"{name[0]}.txt", LINE)
    lines = "\n".join(f"data/obj_train_data/{name}" for name in NAMES)
    write_text(tmp_path / "train.txt", lines)
    assert read_boxes(tmp_path)[0] == EXPECTED


@pytest.mark.parametrize(
    ("images", "labels", "names"),
    [
        ("images", "labels", "classes.txt"),  # Label Studio
        ("train/images", "train/labels", "classes.txt"),
        ("train", "train", "train/_darknet.labels"),  # Roboflow for Darknet
        ("", "", "classes.txt"),  # labelImg
    ],
)
def test_read_yolo_reads_folders_without_a_description(
    images: str, labels: str, names: str, tmp_path: Path
) -> None:
    save_pictures(tmp_path / images, NAMES)
    for name in NAMES:
        write_text(tmp_path / labels / f"{name[0]}.txt", LINE)
    write_text(tmp_path / names, "circle\nsquare\n")
    boxes, notes = read_boxes(tmp_path)
    assert boxes == EXPECTED
    assert any("no data.yaml with names; classes are named by" in note for note in notes)


def test_open_yolo_names_a_second_description(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    write_text(root / "coarse.yaml", "train: images/train\nnames: [shape, shape2]")
    boxes, notes = read_boxes(root)
    assert boxes == EXPECTED
    assert f"{root / 'data.yaml'}: read; not read: coarse.yaml" in notes


def test_read_yolo_calls_classes_by_their_numbers_without_names(tmp_path: Path) -> None:
    boxes, notes = read_boxes(write_yolo(tmp_path))
    assert boxes == [[("1", *BOX)]] * 3
    assert any(note.startswith("warning: ") and "classes.txt" in note for note in notes)


def test_read_yolo_leaves_out_a_missing_test_split_and_refuses_others(tmp_path: Path) -> None:
    lines = "train: images/train\nval: images/val\ntest: ../test/images\nnames: [circle, square]"
    root = write_yolo(tmp_path, lines)
    assert "validation: 'images/val' not found as" in refusal(root, validation=None)
    assert "data.validation=0.1 holds out a share of train" in refusal(root, validation=None)
    assert "test: '../test/images' not found" in refusal(root, test="test")
    _, notes = read_boxes(root, test=None)
    assert any(note.startswith("not read: split test: ") for note in notes)


def test_read_yolo_refuses_a_split_without_label_files(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nval: images/val\nnames: [circle, square]")
    save_pictures(root / "images" / "val", NAMES)
    message = refusal(root, validation=None)
    assert "none of the images of split validation (3) has a label file" in message
    assert "looked for labels/val/a.txt for images/val/a.jpg" in message
    assert read_boxes(root)[0] == EXPECTED
    (root / "labels").rename(root / "annotations")
    assert "there is annotations/train/a.txt: rename its folder to labels" in refusal(root)


def test_read_yolo_counts_images_and_labels_without_the_other(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    for name in "ab":
        (root / "labels/train" / f"{name}.txt").rename(root / "labels/train" / f"IMG_{name}.txt")
    save_picture(root / "images/train/._a.jpg")
    boxes, notes = read_boxes(root)
    assert boxes == [[], [], *EXPECTED[:1]]
    lone = "label files that fit no image, not read: 2 (labels/train/IMG_a.txt, labels/train/IMG_b.txt)"
    assert f"warning: {lone}" in notes
    assert any(note.startswith("warning: train: 2 of 3 images have no label") for note in notes)
    assert any("._a.jpg" in note for note in notes)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 is not a whole number"),
        ("inf 0.5 0.5 0.2 0.2", "class inf is not a whole number"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 has no name"),
        ("1 nan 0.5 0.2 0.2", "is not four numbers"),
        ("1 0.5 0.5 0.2 0.2 0.9", "has 5 numbers after its class; a box has 4"),
        (
            "1 1.0 0.5 0.2 0.2",
            "extends beyond the image of 96 x 72 pixels\ncorrect the rows, skip them with"
            " data.on_error=skip, or repair all of them with data.on_error=clip",
        ),
    ],
)
def test_read_yolo_reports_faults_of_a_line(line: str, fault: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    write_text(root / "labels/train/c.txt", line)
    assert fault in refusal(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("nc: 3\nnames: [circle, square]", "nc is 3, but names has 2 (circle, square)"),
        ("names: [a, a]", "names has a duplicate"),
        ("names: {a: b}", "names is not a list or {number: name}"),
        ("names: [[a], b]", "names is not a list or {number: name}"),
        ("names: [a, *x]", "cannot be read"),
    ],
)
def test_read_yolo_refuses_names_in_doubt(names: str, message: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, f"train: images/train\n{names}")
    assert message in refusal(root, format="yolo")


def test_read_yolo_keeps_names_as_they_are_written(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [007, no]")
    assert read_boxes(root)[0] == [[("no", *BOX)]] * 3


def test_read_yolo_boxes_takes_the_box_of_pose_labels(tmp_path: Path) -> None:
    lines = "train: images/train\nnames: [circle, square]\nkpt_shape: [2, 2]"
    root = write_yolo(tmp_path, lines, f"{LINE} 0.1 0.1 0.2 0.2")
    boxes, notes = read_boxes(root)
    assert boxes == EXPECTED
    assert "data.yaml: key points, not read: only the boxes are" in notes


def test_read_yolo_reads_polygons_as_boxes_and_as_masks(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]", POLYGON)
    boxes, notes = read_boxes(root)
    assert boxes == EXPECTED
    assert "polygons read as the boxes around them: 3 of 3" in notes
    classes, notes = read_classes(root)
    assert classes == [MASK.tolist()] * 3
    assert "1 square" in notes[-1]


def test_read_yolo_masks_leaves_boxes_to_object_detection(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    assert not any(each.claims(root, "auto") for each in Segmentation.Config.formats)


@pytest.mark.parametrize("images", ["photos", "../photos"])
@pytest.mark.parametrize("description", ["", "train: images/train\nnames: [circle, square]"])
def test_read_yolo_takes_images_from_data_images(
    images: str, description: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "photos", [*NAMES, "z.jpg"])
    for name in NAMES:
        write_text(tmp_path / "set" / "labels" / "train" / f"{name[0]}.txt", POLYGON)
    write_text(
        tmp_path / "set" / ("data.yaml" if description else "labels/classes.txt"),
        description or "circle\nsquare",
    )
    boxes, notes = read_boxes(tmp_path / "set", images=images)
    assert boxes == EXPECTED
    assert any("without a label file, not read: 1 (z.jpg)" in note for note in notes)
    masks, _ = read_classes(tmp_path / "set", images=images)
    assert masks == [MASK.tolist()] * 3
    assert "data.images=FOLDER" in refusal(tmp_path / "set")


@pytest.mark.parametrize("name", ["9" * 3000, f"images/{'a' * 300}.jpg", "a\\0b"])
def test_names_that_no_system_allows_are_refused(name: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, f'train: "{name}"\nnames: [circle, square]')
    assert "not found as" in refusal(root, ObjectDetection())


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_label_files_that_count_from_1_are_refused_as_a_whole(
    on_error: str, tmp_path: Path
) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    write_text(root / "labels" / "train" / "a.txt", LINE.replace("1", "2", 1))
    message = refusal(root, on_error=on_error)
    assert "classes 1 to 2, but the names count from 0 to 1" in message
    assert "names: {1: circle, 2: square}" in message


def test_key_points_without_kpt_shape_are_not_taken_for_a_polygon(tmp_path: Path) -> None:
    points = " ".join(["0.86 0.66", "0.85 0.65", "0.87 0.67"])
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]", f"{LINE} {points}")
    for task in (None, Segmentation()):
        assert "10 numbers after the class, which fit a box and key points" in refusal(root, task)
    write_yolo(root, "train: images/train\nnames: [circle, square]\nkpt_shape: [3, 2]")
    assert read_boxes(root)[0] == EXPECTED
    write_yolo(
        root,
        "train: images/train\nnames: [circle, square]\nkpt_shape: null",
        f"{LINE} {points}",
    )
    assert "polygons read as the boxes around them: 3 of 3" in read_boxes(root)[1]


def test_names_that_contradict_the_description_are_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images/train\nnames: [circle, square]")
    write_text(root / "classes.txt", "circle\nsquare\n")
    assert read_boxes(root)[0] == EXPECTED
    write_text(root / "classes.txt", "square\ncircle\n")
    assert "circle, square by data.yaml, but square, circle by classes.txt" in refusal(root)
    assert read_boxes(root / "data.yaml")[0] == EXPECTED


def test_names_beside_the_label_files_are_found(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    write_text(root / "labels" / "train" / "classes.txt", "circle\nsquare\n")
    assert read_boxes(root)[0] == EXPECTED


def test_darknet_is_read_from_the_folder_above_its_data(tmp_path: Path) -> None:
    save_pictures(tmp_path / "data" / "obj", NAMES)
    for name in NAMES:
        write_text(tmp_path / "data" / "obj" / f"{name[0]}.txt", LINE)
    write_text(tmp_path / "data" / "obj.names", "circle\nsquare\n")
    write_text(tmp_path / "data" / "train.txt", "data/obj/a.jpg\ndata/obj/b.jpg\n")
    write_text(tmp_path / "data" / "obj.data", "train = data/train.txt\nnames = data/obj.names\n")
    for source in (tmp_path, tmp_path / "data" / "obj.data"):
        rows, notes = read_boxes(source)
        assert rows == EXPECTED[:2]
        assert any("label files that fit no image, not read: 1" in note for note in notes)
