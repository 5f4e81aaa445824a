"""Labels of whole images as annotation tools write them, read by image classification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import ImageClassification, ObjectDetection
from tests.support.annotated_sets import (
    LINE,
    coco_content,
    open_set,
    refusal,
    save_pictures,
    write_json,
    write_text,
)
from tests.support.tool_exports import (
    FILES,
    POLYGON,
    cvat,
    cvat_image,
    labelme,
    shape,
    studio_task,
    supervisely,
    write_export,
)

NAMES = ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
ONE = [["dog"], ["cat"], ["dog"], ["cat"]]
SEVERAL = [["dog"], ["cat", "dog"], ["dog"], ["cat"]]
Labels = list[list[str]]


def write_labelme(root: Path, labels: Labels) -> None:
    for name, some in zip(NAMES, labels, strict=True):
        flags = {each: each in some for each in ("cat", "dog")}
        write_json(root / f"{name[0]}.json", labelme([], name, flags=flags))


def write_cvat(root: Path, labels: Labels) -> None:
    tags = ("".join(f'<tag label="{each}"/>' for each in some) for some in labels)
    images = "".join(map(cvat_image, tags, NAMES))
    write_text(root / "annotations.xml", cvat(images))


def write_studio(root: Path, labels: Labels) -> None:
    results = [
        {"type": "choices", "from_name": "animal", "value": {"choices": some}} for some in labels
    ]
    images = [f"/data/upload/1/1a2b3c4d-{name}" for name in NAMES]
    tasks = [studio_task(r, image=i) for r, i in zip(results, images, strict=True)]
    write_json(root / "project.json", tasks)


def write_fiftyone(root: Path, labels: Labels) -> None:
    classes = ["cat", "dog"]
    numbers = [[classes.index(each) for each in some] for some in labels]
    is_single = all(len(some) == 1 for some in numbers)
    cells = [some[0] if is_single else some for some in numbers]
    by_name = {name[0]: cell for name, cell in zip(NAMES, cells, strict=True)}
    write_json(root / "labels.json", {"classes": classes, "labels": by_name})


def write_coco(root: Path, labels: Labels) -> None:
    classes = ["cat", "dog"]
    annotations = [
        {"id": index, "image_id": index, "category_id": classes.index(each)}
        for index, some in enumerate(labels)
        for each in some
    ]
    categories = [{"id": index, "name": name} for index, name in enumerate(classes)]
    content = coco_content(NAMES, annotations=annotations, categories=categories)
    write_json(root / "labels.json", content)


def write_automl(root: Path, labels: Labels) -> None:
    pairs = zip(NAMES, labels, strict=True)
    lines = (f"TRAIN,gs://bucket/in/{name},{','.join(some)}\n" for name, some in pairs)
    write_text(root / "import.csv", "".join(lines))


def write_supervisely(root: Path, labels: Labels) -> None:
    save_pictures(root / "ds" / "img", NAMES)
    write_json(root / "meta.json", {"classes": [], "tags": [{"name": "cat"}, {"name": "dog"}]})
    for name, some in zip(NAMES, labels, strict=True):
        write_json(root / "ds" / "ann" / f"{name}.json", supervisely([], *some))


TOOLS = [
    write_supervisely,
    write_labelme,
    write_cvat,
    write_studio,
    write_fiftyone,
    write_coco,
    write_automl,
]


@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("write", TOOLS)
def test_label_formats_read_the_labels_of_images(
    write: Callable[[Path, Labels], None], labels: Labels, tmp_path: Path
) -> None:
    save_pictures(tmp_path, NAMES)
    write(tmp_path, labels)
    rows = open_set(ImageClassification(), tmp_path).train
    assert [Path(row["image"]).name for row in rows] == list(NAMES)
    found = [row["label"] if labels is SEVERAL else [row["label"]] for row in rows]
    assert [sorted(each) for each in found] == labels


def test_label_formats_count_images_without_a_label(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    write_cvat(tmp_path, [["cat"], [], ["dog"], ["dog"]])
    splits = open_set(ImageClassification(), tmp_path)
    assert splits.train["label"] == ["cat", "dog", "dog"]
    assert "warning: images without a label, not read: 1 of 4" in splits.notes


def test_label_formats_count_objects_and_the_exports_count_labels(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    tags = [f'<tag label="{"cat" if n % 2 else "dog"}"/>{POLYGON}' for n in range(4)]
    write_text(tmp_path / "annotations.xml", cvat("".join(map(cvat_image, tags, NAMES))))
    assert "objects in images, not read: 4" in open_set(ImageClassification(), tmp_path).notes
    notes = open_set(ObjectDetection(), tmp_path).notes
    assert "labels of whole images, not read: dog (2), cat (2)" in notes


@pytest.mark.parametrize("name", FILES)
def test_image_classification_refuses_objects_with_their_task(name: str, tmp_path: Path) -> None:
    if name == "labelme":
        save_pictures(tmp_path, ["a.jpg"])
        write_json(tmp_path / "a.json", labelme([shape()]))
    else:
        write_export(tmp_path, name)
    message = refusal(tmp_path, ImageClassification())
    assert "task=object-detection learns the" in message or "has a choice" in message


def test_object_detection_refuses_labels_with_their_task(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    write_coco(tmp_path, ONE)
    assert "task=image-classification reads their categories" in refusal(tmp_path)


def test_folders_of_classes_beside_objects_are_read_by_data_format(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_pictures(tmp_path / name, ["1.jpg", "2.jpg"])
        write_text(tmp_path / name / "1.txt", LINE)
    assert "data.format=image-folder" in refusal(tmp_path, ImageClassification())
    keys: dict[str, Any] = {"format": "image-folder"}
    assert len(open_set(ImageClassification(), tmp_path, **keys).train) == 4


def test_a_description_of_yolo_beside_folders_of_classes_is_no_reason_to_refuse(
    tmp_path: Path,
) -> None:
    for name in ("cat", "dog"):
        save_pictures(tmp_path / "train" / name, ["1.jpg", "2.jpg"])
    write_text(tmp_path / "data.yaml", "train: train\nnames: [cat, dog]\n")
    assert set(open_set(ImageClassification(), tmp_path).train["label"]) == {"cat", "dog"}


def test_file_attributes_of_via_are_labels(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    files = {}
    for name, (label,) in zip(NAMES, ONE, strict=True):
        attributes = {"animal": label, "caption": "", "public_domain": "no"}
        files[f"{name}1"] = {"filename": name, "regions": [], "file_attributes": attributes}
    write_json(tmp_path / "via.json", files)
    splits = open_set(ImageClassification(), tmp_path)
    assert [[row["label"]] for row in splits.train] == ONE
    for entry in files.values():
        entry["file_attributes"] |= {"light": "day"}
    write_json(tmp_path / "via.json", files)
    assert "animal (4), light (4)" in refusal(tmp_path, ImageClassification())
    splits = open_set(ImageClassification(), tmp_path, field="animal")
    assert [[row["label"]] for row in splits.train] == ONE


def test_labels_of_createml_without_coordinates_are_a_table(tmp_path: Path) -> None:
    save_pictures(tmp_path, NAMES)
    rows = [{"image": n, "annotation": label} for n, (label,) in zip(NAMES, ONE, strict=True)]
    write_json(tmp_path / "train.json", rows)
    task = ImageClassification(label="annotation")
    splits = open_set(task, tmp_path)
    assert [[row["annotation"]] for row in splits.train] == ONE
