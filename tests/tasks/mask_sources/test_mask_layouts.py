"""Layouts of folders with images and masks, as datasets and tools have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.task import Task
from tasks import ObjectDetection, Segmentation
from tasks.mask_sources.mask_folders import has_masks, read_mask_folder, read_masks
from tasks.mask_sources.mask_layouts import classify, find_layout
from tests.support.annotated_sets import (
    MASK,
    open_set,
    read_classes,
    refusal,
    save_masks,
    save_picture,
    save_pictures,
    write_text,
)

STEMS = ("1", "10", "2")
TRIMAP = MASK.tolist()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/{}.jpg", "train_masks/{}_mask.gif"),  # Carvana
        ("train/{}.png", "trainannot/{}.png"),  # CamVid
        ("train/{}.png", "train_labels/{}_L.png"),  # CamVid on Kaggle
        ("img_dir/train/{}.jpg", "ann_dir/train/{}.png"),  # mmseg
        ("leftImg8bit/train/a/{}_leftImg8bit.png", "gtFine/train/a/{}_gtFine_labelIds.png"),
        (
            "imgs/leftImg8bit/train/a/{}_leftImg8bit.png",
            "gtFine/train/a/{}_gtFine_labelTrainIds.png",
        ),
        (
            "leftImg8bit_trainvaltest/leftImg8bit/train/a/{}_leftImg8bit.png",
            "gtFine_trainvaltest/gtFine/train/a/{}_gtFine_labelIds.png",
        ),
        ("imgsFine/leftImg8bit/train/{}.png", "gtFine/train/{}.png"),
        ("training/image_2/{}_10.png", "training/semantic/{}_10.png"),  # KITTI
        ("training/images/{}.jpg", "training/v2.0/labels/{}.png"),  # Mapillary Vistas
        ("images/training/{}.jpg", "annotations/training/{}.png"),  # ADE20K
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        ("images/{}.jpg", "annotations/trimaps/{}.png"),  # Oxford pets
        ("images_prepped_train/{}.png", "annotations_prepped_train/{}.png"),
        ("train_images/{}.jpg", "train_masks/{}.png"),
        ("images/img_{}.jpg", "masks/mask_{}.png"),
        ("image/{}.jpg", "ground_truth/{}.png"),
        ("train/{}.jpg", "train/{}_mask.png"),  # Roboflow
        ("{}.jpg", "{}_mask.png"),
        ("train/{}_sat.jpg", "train/{}_mask.png"),  # DeepGlobe
        ("x_train/{}.png", "y_train/{}.png"),
        ("a_Training_Input/ISIC_{}.jpg", "a_Training_GroundTruth/ISIC_{}_segmentation.png"),
        ("training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif"),  # DRIVE
        ("CamVid/train/{}.png", "CamVid/trainannot/{}.png"),
        ("train/train/{}.jpg", "train_masks/train_masks/{}_mask.png"),
    ],
)
def test_read_masks_reads_the_layouts_of_datasets(image: str, mask: str, tmp_path: Path) -> None:
    save_pictures(tmp_path, map(image.format, STEMS))
    save_masks(tmp_path, map(mask.format, STEMS))
    assert has_masks(tmp_path)
    (split,) = read_masks(tmp_path).splits.items()
    assert split[0] == "train"
    root = tmp_path / "CamVid" if image.startswith("CamVid") else tmp_path
    pairs = {(row["file"], Path(row["mask"]).relative_to(tmp_path).as_posix()) for row in split[1]}
    assert pairs == {
        ((tmp_path / image.format(s)).relative_to(root).as_posix(), mask.format(s)) for s in STEMS
    }
    assert read_classes(tmp_path)[0] == [TRIMAP] * 3


def test_pair_files_reads_one_of_several_masks_of_an_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        place = f"{split}/x/{{}}_leftImg8bit.png"
        save_pictures(tmp_path / "leftImg8bit", map(place.format, STEMS))
        for kind in ("labelIds", "color", "instanceIds"):
            names = [f"{split}/x/{stem}_gtFine_{kind}.png" for stem in STEMS]
            save_masks(tmp_path / "gtFine", names, MASK + (kind != "labelIds"))
    splits = open_set(Segmentation(), tmp_path, validation=None)
    masks = [row["mask"] for rows in splits.named.values() for row in rows]
    assert len(masks) == 6
    assert all(mask.endswith("_labelIds.png") for mask in masks)
    assert any("further masks of images that have one, not read: 12" in n for n in splits.notes)


def test_pair_files_leaves_a_mask_in_doubt_unpaired(tmp_path: Path) -> None:
    """Without the folders, 1.jpg could have either mask."""
    save_pictures(tmp_path / "images", ["a/1.jpg", "b/1.jpg"])
    save_masks(tmp_path / "masks", ["x/1.png", "y/1.png"])
    assert "none of the images (2) has a mask" in refusal(tmp_path, Segmentation())


def test_read_masks_reads_cvat_with_its_list_and_names_the_rest(tmp_path: Path) -> None:
    save_pictures(tmp_path / "JPEGImages", ["1.jpg", "2.jpg", "3.jpg"])
    colors = np.stack([MASK * 200, MASK * 0, MASK * 0], axis=-1)
    for folder in ("SegmentationClass", "SegmentationObject"):
        save_masks(tmp_path / folder, ["1.png", "2.png"], colors)
    write_text(tmp_path / "labelmap.txt", "# label:color\nbackground:0,0,0::\ncar:200,0,0::\n")
    write_text(tmp_path / "ImageSets/Segmentation/default.txt", "1\n2\n")
    classes, notes = read_classes(tmp_path)
    assert classes == [TRIMAP] * 2
    assert f"{tmp_path}: not read: SegmentationObject/" in notes
    assert any("images in no list, not read: 1 (3)" in note for note in notes)


def test_read_masks_refuses_to_train_on_a_split_without_masks(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train/images", ["1.jpg", "2.jpg"])
    save_pictures(tmp_path / "test/images", ["3.jpg", "4.jpg"])
    save_masks(tmp_path / "test/masks", ["3.png", "4.png"])
    message = refusal(tmp_path, Segmentation(), test=None)
    assert "train: none of the images (2) has a mask: no folder of masks beside train/im" in message
    assert len(open_set(Segmentation(), tmp_path, train="test").train) == 2
    save_masks(tmp_path / "train/masks", ["7.png", "8.png"])
    message = refusal(tmp_path, Segmentation(), test=None)
    assert "no mask in train/masks is named like 1.jpg (found there: 2 .png)" in message


def test_read_masks_skips_a_test_split_without_masks(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train", ["1.jpg", "2.jpg"])
    save_masks(tmp_path / "train_masks", ["1_mask.png", "2_mask.png"])
    save_pictures(tmp_path / "test", ["3.jpg"])
    notes = open_set(Segmentation(), tmp_path, test=None).notes
    assert "test: skipped, since 'mask' is empty in every row (1 row)" in notes


def test_find_layout_reads_the_truth_and_not_the_field_of_view_of_drive(tmp_path: Path) -> None:
    save_pictures(tmp_path / "training/images", ["21_training.tif"])
    for folder, name in (("1st_manual", "21_manual1"), ("mask", "21_training_mask")):
        save_masks(tmp_path / "training" / folder, [f"{name}.gif"])
    (row,) = read_masks(tmp_path).splits["train"]
    assert row["mask"].endswith("1st_manual/21_manual1.gif")


def test_read_masks_leaves_hidden_files(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    save_masks(tmp_path / "masks", ["1.png", "2.png"])
    for name in ("images/._1.jpg", "masks/._1.png", "__MACOSX/images/._1.jpg"):
        save_picture(tmp_path / name)
    tables = read_masks(tmp_path)
    assert [row["file"] for row in tables.splits["train"]] == ["images/1.jpg", "images/2.jpg"]
    assert any("ignored 3 files" in note for note in tables.notes)


def test_read_mask_folder_leaves_folders_of_classes(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train", ["cat/1.jpg", "dog/2.jpg"])
    save_pictures(tmp_path / "test", ["cat/3.jpg", "dog/4.jpg"])
    assert read_mask_folder(tmp_path) == {}


def test_encoding_instance_makes_all_objects_one_class(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", map("{}.jpg".format, range(5)))
    for count in range(5):
        values = MASK.astype(np.uint16)
        for number in range(3 * count):
            values[0, number] = number + 2
        save_masks(tmp_path / "masks", [f"{count}.png"], values)
    message = refusal_of_coding(tmp_path)
    assert "up to 13, like numbers of objects: task.encoding=instance makes all objects" in message
    classes, notes = read_classes(tmp_path, task={"encoding": "instance", "labels": ["no", "cell"]})
    assert sum(map(sum, classes[4])) == MASK.sum() + 12
    assert notes[-1] == "masks: values 0 no, 1 cell; ignored: nothing"
    assert "11 class 11 and 2 more" in read_classes(tmp_path, task={"encoding": "index"})[1][-1]


def refusal_of_coding(source: Path) -> str:
    try:
        read_classes(source)
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", None)),
        ("Training_Images", ("train", "image")),
        ("testannot", ("test", "mask")),
        ("masks_val", ("validation", "mask")),
        ("SegmentationClass", (None, "mask")),
        ("SegmentationObject", (None, None)),
        ("leftImg8bit", (None, "image")),
        ("cats", (None, None)),
    ],
)
def test_classify_knows_splits_and_roles_in_names(name: str, expected: tuple[str, str]) -> None:
    assert classify(name)[:2] == expected


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (ObjectDetection(), "Pascal VOC (.xml files with <annotation>)"),
        (Segmentation(), "images/ beside masks/, train/ beside train_masks/"),
    ],
)
def test_open_splits_says_what_was_looked_for_and_seen(
    task: Task, wanted: str, tmp_path: Path
) -> None:
    save_pictures(tmp_path / "photos", ["1.jpg", "2.jpg"])
    write_text(tmp_path / "notes.json", "{}")
    message = refusal(tmp_path, task)
    assert f"{tmp_path}: not in a format of this task; looked for " in message
    assert wanted in message
    lookup, _, cause = message.partition("\n")
    assert lookup.endswith(f"; found in {tmp_path}: photos/, notes.json")
    assert cause.startswith("read as tables: ")


def test_folders_are_not_offered_as_classes_to_tasks_with_formats(tmp_path: Path) -> None:
    for place in ("train/street/1", "train/park/2", "val/street/1"):
        save_pictures(tmp_path / place, ["1.jpg"])
    for task in (ObjectDetection(), Segmentation()):
        message = refusal(tmp_path, task)
        assert message.startswith(f"{tmp_path}: not in a format of this task; looked for ")
        assert message.endswith(f"; found in {tmp_path}: train/, val/")


def test_panoptic_masks_are_not_read_as_masks_of_classes(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images" / "train", ["a.jpg"])
    save_masks(tmp_path / "annotations" / "panoptic_train", ["a.png"])
    assert not has_masks(tmp_path)
    assert refusal(tmp_path, Segmentation()).startswith(f"{tmp_path}: not in a format of this task")
    save_masks(tmp_path / "annotations" / "train", ["a.png"])
    assert has_masks(tmp_path)


def test_two_folders_around_images_are_left_in_doubt(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_pictures(tmp_path / name / "images" / "train", ["a.jpg"])
    save_masks(tmp_path / "masks" / "train", ["a.png"])
    assert all(pair.images.parent.parent == tmp_path for pair in find_layout(tmp_path).values())


def test_masks_of_objects_alone_are_read_with_a_warning(tmp_path: Path) -> None:
    save_pictures(tmp_path / "leftImg8bit" / "train", ["a_leftImg8bit.jpg"])
    save_masks(tmp_path / "gtFine" / "train", ["a_gtFine_instanceIds.png"])
    (note,) = [note for note in read_masks(tmp_path).notes if note.startswith("warning")]
    assert "masks that hold objects and not classes by their names: 1" in note
    assert "task.encoding=instance" in note
    save_masks(tmp_path / "gtFine" / "train", ["a_gtFine_labelIds.png"])
    assert not any(note.startswith("warning") for note in read_masks(tmp_path).notes)


def test_legends_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", "0, a\n1, b\n"), ("valid", "0, b\n1, a\n")):
        save_pictures(tmp_path / split, ["1.jpg"])
        save_masks(tmp_path / split, ["1_mask.png"])
        write_text(tmp_path / split / "_classes.csv", f"Pixel Value, Class\n{names}")
    assert "name the classes differently" in refusal(tmp_path, Segmentation())


def test_data_images_is_refused_for_folders_of_masks(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", ["1.jpg"])
    save_masks(tmp_path / "masks", ["1.png"])
    message = refusal(tmp_path, Segmentation(), images="elsewhere")
    assert "data.images=elsewhere" in message
    assert "so remove it" in message
