"""COCO files as tools write them: ids, names of images, sizes, several files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks import ObjectDetection, Segmentation
from tasks.annotations.box_formats import read_coco_boxes
from tasks.coco.coco import read_coco_file
from tasks.detection.object_rows import learn_categories
from tests.support.annotated_sets import (
    BOX,
    LINE,
    MASK,
    SIZE,
    coco_content,
    open_set,
    read_boxes,
    read_classes,
    refusal,
    save_picture,
    save_pictures,
    write_json,
    write_text,
)

NAMES = ("a.jpg", "b.jpg", "c.jpg")
EXPECTED = [[("square", *BOX)]] * 3


def write_coco(root: Path, content: dict[str, Any], images: str = "images") -> Path:
    save_pictures(root / images, NAMES)
    return write_json(root / "instances.json", content).parent


@pytest.mark.parametrize(
    ("categories", "category"),
    [
        ([{"id": "c", "name": "circle"}, {"id": "s", "name": "square"}], "s"),
        ([{"id": 3, "name": "circle"}, {"id": 90, "name": "square"}], 90),
        ([{"id": 0, "name": "square"}], 0),
        ([{"id": "1", "name": "square"}], 1),
        ([{"id": 1, "name": "square"}], "1"),
        ([{"id": 1.0, "name": "square"}], 1),
    ],
)
def test_read_coco_accepts_ids_of_any_kind(categories: Any, category: Any, tmp_path: Path) -> None:
    content = coco_content(NAMES, categories=categories)
    for index, item in enumerate(content["annotations"]):
        item |= {"id": f"uuid-{index}", "image_id": f"im{index}", "category_id": category}
        content["images"][index]["id"] = f"im{index}"
    root = write_coco(tmp_path, content)
    assert read_boxes(root)[0] == EXPECTED
    assert (
        read_classes(root)[0]
        == [MASK.tolist() if len(categories) == 1 else (MASK * 1).tolist()] * 3
    )


@pytest.mark.parametrize("name", ["images\\a.jpg", "../x/images/a.jpg", "C:\\x\\a.jpg", "/d/a.jpg"])
def test_read_coco_finds_images_by_paths_of_other_machines(name: str, tmp_path: Path) -> None:
    content = coco_content([name.replace("a.jpg", each) for each in NAMES])
    assert read_boxes(write_coco(tmp_path, content))[0] == EXPECTED


def test_read_coco_reads_the_folder_that_fiftyone_writes(tmp_path: Path) -> None:
    save_pictures(tmp_path / "data", NAMES)
    write_json(tmp_path / "labels.json", coco_content(NAMES))
    assert read_boxes(tmp_path)[0] == EXPECTED


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("train.json", "train"),
        ("annotations/instances_train.json", "train_images"),
        ("annotations/instances_default.json", "images/default"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_read_coco_finds_the_images_of_a_split(file: str, images: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / images, NAMES)
    save_pictures(tmp_path / "val", NAMES)
    write_json(tmp_path / file, coco_content(NAMES))
    rows = open_set(ObjectDetection(), tmp_path).train
    assert {Path(row["image"]).parent for row in rows} == {tmp_path / images}


def test_read_coco_chooses_the_instances_among_the_files_of_coco(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    for split in ("train2017", "val2017"):
        save_pictures(tmp_path / split, NAMES)
        write_json(tmp_path / "annotations" / f"instances_{split}.json", content)
        people = coco_content(NAMES, categories=[{"id": 1, "name": "person"}])
        write_json(tmp_path / "annotations" / f"person_keypoints_{split}.json", people)
        write_json(tmp_path / "annotations" / f"captions_{split}.json", {"images": []})
    boxes, notes = read_boxes(tmp_path)
    assert boxes == EXPECTED
    (note,) = (note for note in notes if "captions" in note)
    assert "read instances_train2017.json, instances_val2017.json; not read: captions" in note
    assert "person_keypoints_val2017.json" in note


@pytest.mark.parametrize("content", ["", "\0" * 90, '{"images": [', "\ufeff\ufeff{}"])
def test_damaged_file_of_coco_is_refused_and_not_replaced_by_another(
    content: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, coco_content(NAMES))
    people = coco_content(NAMES, categories=[{"id": 1, "name": "person"}])
    write_json(tmp_path / "annotations" / "person_keypoints_train2017.json", people)
    for name in ("._a.json", "lines.json"):
        (tmp_path / "annotations" / name).write_text('{"a": 1}\n{"a": 2}\n')
    assert read_boxes(tmp_path)[0] == EXPECTED
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match="instances.json: is not valid JSON"):
        read_boxes(tmp_path)


def test_read_coco_reports_a_missing_first_image_as_a_fault_of_its_row(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", coco_content(NAMES))
    (root / "images" / "a.jpg").unlink()
    save_picture(root.parent / "neighbor" / "a.jpg")  # of another dataset
    assert "1 of 3 rows is invalid:\n  a.jpg: image does not exist" in refusal(root)
    assert read_boxes(root, on_error="skip")[0] == EXPECTED[1:]


def test_read_coco_does_not_replace_a_missing_image_by_one_of_another_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save_pictures(tmp_path / split, NAMES)
        write_json(tmp_path / split / "_annotations.coco.json", coco_content(NAMES))
    (tmp_path / "train" / "a.jpg").unlink()
    assert "a.jpg: image does not exist" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
            "category id 1 has two names, 'cat' and 'dog'; give each category an id of its own",
        ),
        (
            {"images": [{"id": 0, "file_name": "a.jpg"}, {"id": 0, "file_name": "b.jpg"}]},
            "image id 0 is used by a.jpg and b.jpg, so its annotations may belong to either",
        ),
        ({"images": []}, "lists no images"),
    ],
)
def test_read_coco_refuses_ids_that_are_not_unique(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refusal(write_coco(tmp_path, coco_content(NAMES, **changes)))


@pytest.mark.parametrize("name", [None, " ", ["square"]])
@pytest.mark.parametrize("key", ["name", "file_name"])
def test_read_coco_refuses_names_that_are_not_text(key: str, name: Any, tmp_path: Path) -> None:
    content = coco_content(NAMES)
    content["categories" if key == "name" else "images"][0][key] = name
    assert "not a name" in refusal(write_coco(tmp_path, content))


def test_read_coco_notes_what_nothing_is_learned_from(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][0] |= {"keypoints": [1, 2, 2], "attributes": {}, "iscrowd": 0}
    content["images"].append(content["images"][0])
    notes = read_boxes(write_coco(tmp_path, content))[1]
    assert "instances.json: categories without annotations: circle" in notes
    short = "polygons with fewer than 3 points, left out: 1 (first: annotation 11)"
    assert f"instances.json: {short}" in notes
    assert "instances.json: fields of annotations, not read: keypoints (1)" in notes
    assert "instances.json: images listed again with the same id and file_name: 1" in notes


def test_learn_categories_refuses_crowds_only(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    for item in content["annotations"]:
        item["iscrowd"] = 1
    rows = open_set(ObjectDetection(), write_coco(tmp_path, content)).train
    with pytest.raises(DataError, match="all 3 objects of column 'objects' are crowds"):
        learn_categories(rows, "objects", None)


def test_read_coco_takes_the_box_around_an_outline_without_one(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    del content["annotations"][0]["bbox"]
    assert read_boxes(write_coco(tmp_path, content))[0] == EXPECTED


@pytest.mark.parametrize(
    ("orientation", "box"),
    [
        (3, (6, 17, 20, 31)),
        (5, (41, 76, 55, 90)),
        (6, (17, 76, 31, 90)),
        (7, (17, 6, 31, 20)),
        (8, (41, 6, 55, 20)),
    ],
)
def test_fit_sizes_turns_annotations_that_ignore_the_exif_orientation(
    orientation: int, box: tuple[int, ...], tmp_path: Path
) -> None:
    write_coco(tmp_path, coco_content(NAMES))
    save_picture(tmp_path / "images" / "a.jpg", orientation=orientation)
    save_picture(tmp_path / "images" / "b.jpg", orientation=6)  # tells that EXIF is ignored
    boxes, notes = read_boxes(tmp_path)
    assert boxes == [[("square", *box)], [("square", 17, 76, 31, 90)], [("square", *BOX)]]
    assert any(
        "images with an EXIF orientation that their annotations ignore: 2" in n for n in notes
    )
    classes = read_classes(tmp_path)[0]
    left, top, right, bottom = box
    assert all(classes[0][y][x] == 1 for x in range(left, right) for y in range(top, bottom))


def test_fit_sizes_leaves_annotations_of_the_upright_image(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    content["images"][0] |= {"width": SIZE[1], "height": SIZE[0]}
    content["annotations"][0]["bbox"] = [10, 80, 20, 10]
    write_coco(tmp_path, content)
    save_picture(tmp_path / "images" / "a.jpg", orientation=6)
    boxes, notes = read_boxes(tmp_path)
    assert boxes[0] == [("square", 10, 80, 30, 90)]
    assert not any("EXIF" in note for note in notes)


def test_fit_sizes_scales_annotations_if_data_rescale_says_so(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    for image, item in zip(content["images"], content["annotations"], strict=True):
        image |= {"width": 2 * SIZE[0], "height": 2 * SIZE[1]}
        item["bbox"] = [2 * value for value in item["bbox"]]
        item["segmentation"] = [[2 * value for value in item["segmentation"][0]]]
    root = write_coco(tmp_path, content)
    message = refusal(root)
    assert (
        "a.jpg: instances.json, annotation 10: instances.json, image 0 states 192 x 144" in message
    )
    assert "data.rescale=true scales the coordinates by 0.5, data.rescale=false" in message
    boxes, notes = read_boxes(root, rescale=True)
    assert boxes == EXPECTED
    assert read_classes(root, rescale=True)[0] == [MASK.tolist()] * 3
    assert any("3 images of another size are scaled to their files" in note for note in notes)
    content["annotations"] = coco_content(NAMES)["annotations"]
    write_json(root / "instances.json", content)
    assert read_boxes(root, rescale=False)[0] == EXPECTED


def test_fit_sizes_names_both_readings_of_exchanged_sides(tmp_path: Path) -> None:
    content = coco_content(NAMES)
    content["images"][0] |= {"width": SIZE[1], "height": SIZE[0]}
    message = refusal(write_coco(tmp_path, content))
    assert "either width and height are exchanged (data.rescale=false" in message


def test_read_coco_boxes_keeps_rows_without_a_stated_size(tmp_path: Path) -> None:
    from finetune.config.schema import DataConfig

    content = coco_content(NAMES)
    content["images"] = [{k: i[k] for k in ("id", "file_name")} for i in content["images"]]
    (row, *_) = read_coco_boxes(write_coco(tmp_path, content), DataConfig()).splits["train"]
    assert row["objects"][0]["place"] == "instances.json, annotation 10"


def test_read_reference_names_the_other_formats_of_a_source(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_content(NAMES))
    for name in NAMES:
        write_text(root / "labels" / f"{name[0]}.txt", LINE)
    write_text(root / "data.yaml", "train: images\nnames: [circle, square]")
    boxes, notes = read_boxes(root)
    assert boxes == EXPECTED
    other = "data.format=yolo would read its other annotations"
    assert f"{root}: read as coco; {other}" in notes
    assert not any("would read" in note for note in read_boxes(root, format="yolo")[1])


def test_panoptic_sets_are_refused_by_name(tmp_path: Path) -> None:
    segments = [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1}]}]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "a"}]}
    write_json(tmp_path / "panoptic_train.json", {**content, "annotations": segments})
    assert "panoptic_train.json: a panoptic set of COCO, which is not read" in refusal(tmp_path)


def test_read_coco_counts_annotations_of_images_that_are_not_listed(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg"}]
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    annotations = [{"id": n, "image_id": n, **box} for n in (1, 7, 8)]
    content = {"images": images, "categories": [{"id": 1, "name": "car"}]}
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({**content, "annotations": annotations}))
    found, notes = read_coco_file(file, DataConfig())
    assert [len(image.objects) for image in found] == [1]
    assert notes[0] == (
        "warning: annotations.json: 2 of 3 annotations are of images that the file does not list,"
        " and are not read (image_id 7, 8)"
    )
    file.write_text(json.dumps({**content, "annotations": annotations[1:]}))
    with pytest.raises(DataError, match=r"none of the annotations \(2\) is of a listed image"):
        read_coco_file(file, DataConfig())


def test_read_coco_takes_an_unknown_category_as_a_fault_of_its_row(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    content = coco_content(["a.jpg", "b.jpg", "c.jpg"])
    content["annotations"][1]["category_id"] = 9
    write_json(tmp_path / "train.json", content)
    fault = "b.jpg: train.json, annotation 11: has unknown category_id 9; add it to the categories"
    for task in (ObjectDetection(), Segmentation()):
        assert fault in refusal(tmp_path, task)
    boxes, notes = read_boxes(tmp_path, on_error="skip")
    assert boxes == [[("square", *BOX)]] * 2
    assert any("1 of 3 rows" in note for note in notes)
