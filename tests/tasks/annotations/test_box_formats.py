"""Boxes in COCO, YOLO, Pascal VOC, CSV and hub layouts -> the same objects; faults with place and cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import ConfigError, DataError
from tasks import ObjectDetection
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.annotations.boxes import find_convention
from tasks.detection.object_rows import learn_categories
from tests.support.contract import resolve

SIZE = (100, 80)  # (width, height) of the pictures
# The true objects of the pictures: class, left, top, right, bottom.
TRUTH: dict[str, list[tuple[str, float, float, float, float]]] = {
    "a": [("cat", 10, 20, 40, 60), ("dog", 50, 8, 90, 40)],
    "b": [],
    "c": [("dog", 0, 0, 100, 80)],
}


def pictures(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(TRUTH):
        Image.new("RGB", SIZE, (40 * place, 90, 20)).save(folder / f"{name}.jpg")
    return folder


def write_coco(root: Path, numbers: dict[str, int]) -> Path:
    """`numbers` are the ids of the classes."""
    pictures(root / "images")
    annotations = [
        {
            "id": 100 + place,
            "image_id": list(TRUTH).index(name) + 7,
            "category_id": numbers[kind],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for place, (name, (kind, left, top, right, bottom)) in enumerate(
            (name, item) for name, items in TRUTH.items() for item in items
        )
    ]
    held = {
        "images": [{"id": n + 7, "file_name": f"{name}.jpg"} for n, name in enumerate(TRUTH)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    (root / "instances.json").write_text(json.dumps(held))
    return root / "instances.json"


def write_yolo(root: Path, names: Any) -> Path:
    pictures(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    numbers = {
        name: n for n, name in (names.items() if isinstance(names, dict) else enumerate(names))
    }
    for name, items in TRUTH.items():
        lines = [
            f"{numbers[kind]} {(left + right) / 200} {(top + bottom) / 160} "
            f"{(right - left) / 100} {(bottom - top) / 80}"
            for kind, left, top, right, bottom in items
        ]
        if lines:  # a picture without a file shows nothing
            (root / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(json.dumps({"train": "../images/train", "names": names}))
    return root


def write_voc(root: Path) -> Path:
    pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name, items in TRUTH.items():
        objects = "\n".join(
            f"<object><name>{kind}</name><bndbox>\n<xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind, left, top, right, bottom in items
        )
        text = f"<annotation>\n<filename>{name}.jpg</filename>\n{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def write_csv(root: Path, header: str = "filename,width,height,class,xmin,ymin,xmax,ymax") -> Path:
    pictures(root)
    lines = [header]
    for name, items in TRUTH.items():
        for kind, *box in items or [("", "", "", "", "")]:
            lines.append(",".join(map(str, [f"{name}.jpg", *SIZE, kind, *box])))
    (root / "boxes.csv").write_text("\n".join(lines))
    return root / "boxes.csv"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "coco from 1": lambda root: write_coco(root, {"cat": 1, "dog": 2}),
    "coco with gaps": lambda root: write_coco(root, {"cat": 17, "dog": 3}),
    "yolo from 0": lambda root: write_yolo(root, ["cat", "dog"]),
    "yolo with gaps": lambda root: write_yolo(root, {4: "cat", 9: "dog"}),
    "voc": write_voc,
    "csv": write_csv,
}


def opened(source: Path, **keys: Any) -> tuple[ObjectDetection, datasets.Dataset, list[str]]:
    task = ObjectDetection(**keys.pop("task", {}))
    splits = open_splits(DataConfig(source=str(source), validation=0, **keys), task)
    return task, splits.train, splits.notes


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_says_the_same_objects(name: str, tmp_path: Path) -> None:
    task, rows, _ = opened(WRITERS[name](tmp_path / "set"))
    task.labels_, task.class_names_, _ = learn_categories(rows, "objects", None)
    assert task.labels_ == ["cat", "dog"]
    assert sorted(Path(row["image"]).stem for row in rows) == list(TRUTH)
    for row in rows:
        truth = task.rows.objects.truth(row, (SIZE[1], SIZE[0]), task.labels)
        wanted = TRUTH[Path(row["image"]).stem]
        assert [task.labels_[n] for n in truth.labels.tolist()] == [kind for kind, *_ in wanted]
        found = [[round(value, 3) for value in box] for box in truth.boxes.tolist()]
        assert found == [list(map(float, box)) for _, *box in wanted]


def test_hub_layout_is_read_by_its_class_label_and_its_boxes(tmp_path: Path) -> None:
    """A dict of lists with numbers of a ClassLabel, and boxes whose convention nothing says."""
    root = pictures(tmp_path)
    features = datasets.Features(
        {
            "image": datasets.Value("string"),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["dog", "cat"])),
            },
        }
    )
    rows = datasets.Dataset.from_list(
        [
            {
                "image": str(root / f"{name}.jpg"),
                "objects": {
                    "bbox": [[x, y, r - x, b - y] for _, x, y, r, b in items],
                    "category": [int(kind == "cat") for kind, *_ in items],
                },
            }
            for name, items in TRUTH.items()
        ],
        features=features,
    )
    task = ObjectDetection()
    notes = resolve(task, rows[:])
    assert "boxes: xywh, in which alone the first 3 boxes fit" in notes
    assert not [fault for row in rows for fault in task.rows.validate(row)]
    task.labels_, task.class_names_, said = learn_categories(rows, "objects", None)
    assert task.labels_ == ["dog", "cat"]
    assert "1 pictures have none" in said
    assert task.rows.objects.truth(rows[0], (80, 100), task.labels).boxes.tolist()[0] == [
        10,
        20,
        40,
        60,
    ]


def test_boxes_that_fit_in_two_conventions_are_asked_for() -> None:
    assert find_convention([([10, 10, 20, 20], (100, 100))]) is None
    rows = {
        "image": [Image.new("RGB", SIZE)],
        "objects": [[{"bbox": [5, 6, 20, 20], "label": "a"}]],
    }
    with pytest.raises(DataError, match="fit in several conventions"):
        resolve(ObjectDetection(), rows)
    resolve(ObjectDetection(boxes="xyxy"), rows)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "labels/train/c.txt:2: has 3 numbers after its class"),
        ("2 0.5 0.5 0.2 0.2", "labels/train/c.txt:2: class 2 has no name in data.yaml (it names 0 to 1); do the files count from 1"),
        ("x 0.5 0.5 0.2 0.2", "labels/train/c.txt:2: 'x 0.5 0.5 0.2 0.2' is not a class and numbers"),
        ("1 50 40 20 20", "labels/train/c.txt:2: box [50, 40, 20, 20] has values over 1: pixels"),
        ("1 0.95 0.5 0.2 0.2", "reaches out of the picture of 100 x 80 pixels"),
        ("1 0.5 0.5 0.0 0.2", "is empty: it has no width or no height"),
    ],
)  # fmt: skip
def test_faulty_line_of_yolo_is_named_with_its_cause(line: str, fault: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", ["cat", "dog"])
    with (root / "labels" / "train" / "c.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(DataError) as error:
        opened(root)
    assert fault in str(error.value)
    assert "images/train/c.jpg" in str(error.value)
    _, rows, notes = opened(root, on_error="skip")
    assert len(rows) == 2
    assert any("1 of 3 rows left out" in note for note in notes)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((40, 60, 10, 20), "boxes.csv:2: box [40, 60, 10, 20] is reversed: its right or bottom lies before its left or top; it would fit as left, top, width, height: is task.boxes=xywh meant?"),
        ((0.1, 0.2, 0.4, 0.6), "has no value over 1: are these shares of the picture?; it would fit as left, top, right, bottom in shares"),
        ((200, 200, 300, 300), "lies outside of the picture"),
        ((10, 20, "?", 60), "is not four numbers"),
    ],
)  # fmt: skip
def test_box_in_another_convention_is_named_with_it(box: Any, fault: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = ",".join(map(str, ["a.jpg", *SIZE, "cat", *box]))
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        opened(path)
    assert fault in str(error.value)


def test_clip_keeps_what_cutting_mends_and_stops_at_the_rest(tmp_path: Path) -> None:
    path = write_csv(tmp_path)
    text = path.read_text().replace("10,20,40,60", "60,20,140,60")
    path.write_text(text)
    task, rows, notes = opened(path, on_error="clip")
    assert "train: 1 of 3 rows are mended by cutting (data.on_error)" in notes
    task.labels_, task.class_names_, _ = learn_categories(rows, "objects", None)
    assert task.rows.objects.truth(rows[0], (80, 100), task.labels).boxes.tolist()[0] == [
        60,
        20,
        100,
        60,
    ]
    path.write_text(text.replace("50,8,90,40", "90,8,50,40"))
    with pytest.raises(DataError, match="is reversed"):
        opened(path, on_error="clip")


def test_whole_file_in_another_convention_is_read_by_naming_it(tmp_path: Path) -> None:
    path = write_coco(tmp_path, {"cat": 1, "dog": 2})
    held = json.loads(path.read_text())
    for item in held["annotations"]:
        left, top, width, height = item["bbox"]
        item["bbox"] = [left, top, left + width, top + height]
    path.write_text(json.dumps(held))
    with pytest.raises(
        DataError, match=r"instances.json, annotation 101: .* task.boxes=xyxy meant"
    ):
        opened(path)
    _, rows, _ = opened(path, task={"boxes": "xyxy"})
    assert len(rows) == 3


def test_fault_of_an_xml_file_has_its_line(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set")
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<xmax>90</xmax>", ""))
    with pytest.raises(DataError, match=r"Annotations/a.xml:5: its <bndbox> has no <xmax>"):
        opened(root)
    path.write_text("<annotation><object>")
    with pytest.raises(DataError, match="a.xml: is no whole XML file"):
        opened(root)


def test_class_that_only_a_held_out_split_has_is_named_with_its_file(tmp_path: Path) -> None:
    task, rows, _ = opened(write_csv(tmp_path))
    task.labels_ = ["cat"]
    assert not [fault for row in rows for fault in task.rows.validate(row)]
    faults = [fault for row in rows for fault in task.unseen(row)]
    assert [fault.partition(";")[0] for fault in faults] == [
        "boxes.csv:3: class 'dog' is unknown",
        "boxes.csv:5: class 'dog' is unknown",
    ]
    with pytest.raises(DataError, match="task.labels: does not name: 'dog' .2 objects"):
        learn_categories(rows, "objects", ["cat"])
    with pytest.raises(ConfigError, match="'cat' stands there 2 times"):
        learn_categories(rows, "objects", ["cat", "cat"])
    assert learn_categories(rows, "objects", [" dog", "cat "])[0] == ["dog", "cat"]


def test_a_table_without_boxes_is_no_format_of_detection(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("text,label\nhi,a\n")
    for path in (tmp_path / "news.csv", tmp_path):
        assert not [each.name for each in BOX_FORMATS if each.claims(path, "auto")]
    with pytest.raises(DataError, match=r"holds no data.yaml of YOLO"):
        next(each for each in BOX_FORMATS if each.claims(tmp_path, "yolo")).read(tmp_path)
