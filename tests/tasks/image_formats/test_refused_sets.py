"""Public datasets that are recognized by their files, and refused with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import ImageClassification, ObjectDetection, Segmentation
from tests.support.annotated_sets import (
    open_set,
    refusal,
    save_pictures,
    write_json,
    write_text,
)

SCALABEL = [
    {
        "name": "1.jpg",
        "attributes": {"weather": "clear"},
        "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 9, "y2": 9}}],
    }
]
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "WIDER FACE": (
        "wider_face_*_bbx_gt.txt",
        {"wider_face_split/wider_face_train_bbx_gt.txt": "0--Parade/1.jpg\n0\n"},
    ),
    "BDD100K": ("to_coco", {"labels/det_20/det_train.json": SCALABEL}),
    "VisDrone": (
        "VisDrone.yaml",
        {"VisDrone2019-DET-train/annotations/1.txt": "9,2,4,4,1,4,0,0\n"},
    ),
    "DOTA": (
        "convert_dota_to_yolo_obb",
        {"labelTxt/1.txt": "imagesource:GoogleEarth\ngsd:0.1\n1 1 9 1 9 9 1 9 plane 0\n"},
    ),
    "the full release of ADE20K": (
        "ADEChallengeData2016",
        {"images/ADE/training/urban/street/ADE_train_00000001_seg.png": ""},
    ),
}
TASKS = [ObjectDetection, Segmentation, ImageClassification]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FILES)
def test_refused_sets_are_named_with_a_remedy(name: str, task: Any, tmp_path: Path) -> None:
    remedy, files = FILES[name]
    save_pictures(tmp_path / "images" / "0--Parade", ["1.jpg", "2.jpg"])
    for file, content in files.items():
        write = write_text if isinstance(content, str) else write_json
        write(tmp_path / file, content)
    message = refusal(tmp_path, task())
    assert f"looks like {name}; " in message
    assert remedy in message


@pytest.mark.parametrize(
    "table", ["annotations/train-annotations-bbox.csv", "train/labels/detections.csv"]
)
def test_image_classification_refuses_the_boxes_of_openimages(table: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / "train" / "data", ["1.jpg", "2.jpg"])
    write_text(tmp_path / table, "ImageID,LabelName,XMin,XMax,YMin,YMax\n1,/m/01,0.1,0.2,0.1,0.2\n")
    assert "task=object-detection reads its boxes" in refusal(tmp_path, ImageClassification())


def test_folders_of_a_refused_set_are_classes_by_data_format(tmp_path: Path) -> None:
    for event in ("0--Parade", "1--Handshake"):
        save_pictures(tmp_path / "WIDER_train" / "images" / event, ["1.jpg", "2.jpg"])
    source = tmp_path / "WIDER_train"
    splits = open_set(ImageClassification(), source, format="image-folder")
    assert set(splits.train["label"]) == {"0--Parade", "1--Handshake"}


def test_image_classification_refuses_labels_that_may_be_absent(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train", ["1.jpg", "2.jpg"])
    lines = "ImageID,Source,LabelName,Confidence\n1,verification,/m/01,1\n2,verification,/m/01,0\n"
    write_text(tmp_path / "train.csv", lines)
    message = refusal(tmp_path, ImageClassification())
    assert "Confidence 0 means that a label is absent" in message
