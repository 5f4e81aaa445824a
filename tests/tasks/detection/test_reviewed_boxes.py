"""Reviewed tables of boxes: data.relabel and data.drop of object detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_splits
from finetune.errors import DataError
from tasks import ObjectDetection

HEADER = "rank,row,object,kind,given,suggested,given_box,suggested_box"
OBJECTS: list[list[tuple[str, list[float]]]] = [
    [("cat", [10, 10, 20, 20]), ("dog", [40, 30, 20, 10])],
    [("dog", [5, 5, 30, 30])],
    [("cat", [0, 0, 64, 48])],
]


@pytest.fixture
def coco(tmp_path: Path) -> str:
    """Write a COCO set; boxes are left, top, width, height."""
    (tmp_path / "images").mkdir()
    names, annotations = ["cat", "dog"], list[dict[str, Any]]()
    for image, objects in enumerate(OBJECTS):
        Image.new("RGB", (64, 48), (image * 50, 9, 9)).save(tmp_path / f"images/{image}.png")
        for name, box in objects:
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image, "category_id": names.index(name), "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(3)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return str(tmp_path)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return str(path)


def opened(source: Any, **keys: Any) -> tuple[Splits, list[list[tuple[str, list[float]]]]]:
    """Return the splits, and the objects of all rows as (category, corners)."""
    made = not isinstance(source, str)
    config = DataConfig(source=None if made else source, validation=0.0, test=0.0, **keys)
    task = ObjectDetection(boxes="xyxy" if made else None)
    splits = open_splits(config, task, source if made else None)
    rows = [task.rows.objects.read(row, (48, 64)) for row in splits.train]
    return splits, [[(str(each.category), list(each.box or ())) for each in row] for row in rows]


LINES = [
    "1,1,2,class,dog,cat,40.0 30.0 60.0 40.0,",
    "2,2,1,place,dog,dog,5.0 5.0 35.0 35.0,6 6 30 30",
    '3,2,,object without a label,,cat,,"1, 2, 11, 12"',
    "4,1,1,label without an object,cat,,10.0 10.0 30.0 30.0,",
    "5,3,1,class,cat,,,",
]


def test_relabel_gives_boxes_their_class_and_place_adds_and_removes_them(
    coco: str, tmp_path: Path
) -> None:
    splits, objects = opened(coco, relabel=write(tmp_path / "issues.csv", *LINES))
    assert objects[0] == [("cat", [40, 30, 60, 40])]
    assert objects[1] == [("dog", [6, 6, 30, 30]), ("cat", [1, 2, 11, 12])]
    assert objects[2] == [("cat", [0, 0, 64, 48])]
    (note,) = [note for note in splits.notes if "revised" in note]
    assert "3 of 3 rows" in note
    for count in ("1 relabeled", "1 moved", "1 added", "1 dropped"):
        assert count in note


def test_drop_removes_boxes_and_keeps_their_images(coco: str, tmp_path: Path) -> None:
    splits, objects = opened(coco, drop=write(tmp_path / "issues.csv", *LINES))
    assert objects == [[], [], []]
    assert any("4 dropped" in note for note in splits.notes)


def test_relabel_and_drop_together_number_objects_as_the_data_do(coco: str, tmp_path: Path) -> None:
    relabel = write(tmp_path / "relabel.csv", LINES[3], LINES[0])
    drop = write(tmp_path / "drop.csv", "1,2,1,place,dog,,,")
    _, objects = opened(coco, relabel=relabel, drop=drop)
    assert objects[:2] == [[("cat", [40, 30, 60, 40])], []]


def test_relabel_writes_boxes_in_the_form_of_the_data(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "dog"])
    objects = [{"bbox": [10, 10, 20, 20], "category": 0}, {"bbox": [30, 20, 40, 40], "category": 1}]
    inner = {"bbox": datasets.List(datasets.Value("int64")), "category": names}
    features = datasets.Features({"image": datasets.Image(), "objects": datasets.List(inner)})
    images = [Image.new("RGB", (64, 48), (n, 0, 0)) for n in range(2)]
    rows = {"image": images, "objects": [objects, objects[:1]]}
    table = datasets.Dataset.from_dict(rows, features=features)
    lines = ["1,2,1,place,cat,dog,10 10 20 20,1.4 1 20 21", "2,2,,,,cat,,1 1 9 9"]
    splits, found = opened(table, relabel=write(tmp_path / "issues.csv", *lines))
    assert splits.train[1]["objects"] == [
        {"bbox": [1, 1, 20, 21], "category": 1},
        {"bbox": [1, 1, 9, 9], "category": 0},
    ]
    assert len(found[0]) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1,9,1,class,cat,dog,,", "name a row that train does not have: 9"),
        ("1,1,3,class,cat,dog,,", "row 1: there is no object '3', only 1 to 2"),
        ("1,1,2,class,cat,dog,,", "row 1, object 2 is 'dog' at 40.0 30.0 60.0 40.0, not 'cat'"),
        ("1,1,2,class,dog,dig,,", "no object of train has the label 'dig'; did you mean 'dog'"),
        ("1,1,2,place,dog,dog,1 1 9 9,2 2 9 9", "row 1, object 2 is 'dog' at 40.0"),
        ("1,1,2,place,dog,dog,,2 2 9", "suggested_box is '2 2 9', not four numbers"),
        ("1,1,2,place,dog,dog,,9 2 2 9", "right <= left"),
        ("1,1,,object without a label,,cat,,", "an object to add needs suggested_box"),
    ],
)
def test_relabel_refuses_lines_of_other_boxes(
    coco: str, tmp_path: Path, line: str, fault: str
) -> None:
    with pytest.raises(DataError, match=fault.replace(".", r"\.").replace("[", r"\[")):
        opened(coco, relabel=write(tmp_path / "issues.csv", line))
