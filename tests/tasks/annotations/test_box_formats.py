"""Readers of box annotations: COCO, YOLO, Pascal VOC, CSV, and columns of hub datasets."""

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
from finetune.errors import DataError
from tasks import ObjectDetection
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.detection.object_rows import learn_categories
from tasks.objects.boxes import find_convention
from tests.support.contract import resolve

SIZE = (100, 80)  # (width, height) of the images
# True objects of each image: class, left, top, right, bottom.
TRUTH: dict[str, list[tuple[str, float, float, float, float]]] = {
    "a": [("cat", 10, 20, 40, 60), ("dog", 50, 8, 90, 40)],
    "b": [],
    "c": [("dog", 0, 0, 100, 80)],
}


def save_images(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(TRUTH):
        Image.new("RGB", SIZE, (40 * index, 90, 20)).save(folder / f"{name}.jpg")
    return folder


def write_coco(root: Path, numbers: dict[str, int]) -> Path:
    """Write a COCO file; `numbers` are the ids of the classes."""
    save_images(root / "images")
    annotations = [
        {
            "id": 100 + index,
            "image_id": list(TRUTH).index(name) + 7,
            "category_id": numbers[kind],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for index, (name, (kind, left, top, right, bottom)) in enumerate(
            (name, item) for name, items in TRUTH.items() for item in items
        )
    ]
    content = {
        "images": [{"id": n + 7, "file_name": f"{name}.jpg"} for n, name in enumerate(TRUTH)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json"


def write_yolo(root: Path, names: Any) -> Path:
    save_images(root / "images" / "train")
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
        if lines:  # an image without a file has no objects
            (root / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(json.dumps({"train": "../images/train", "names": names}))
    return root


def write_voc(root: Path) -> Path:
    save_images(root / "JPEGImages")
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
    save_images(root)
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


def open_boxes(source: Path, **keys: Any) -> tuple[ObjectDetection, datasets.Dataset, list[str]]:
    task = ObjectDetection(**keys.pop("task", {}))
    splits = open_splits(DataConfig(source=str(source), validation=0, **keys), task)
    return task, splits.train, splits.notes


@pytest.mark.parametrize("name", WRITERS)
def test_box_formats_give_the_same_objects(name: str, tmp_path: Path) -> None:
    task, rows, _ = open_boxes(WRITERS[name](tmp_path / "set"))
    task.labels_, task.class_names_, _ = learn_categories(rows, "objects", None)
    assert task.labels_ == ["cat", "dog"]
    assert sorted(Path(row["image"]).stem for row in rows) == list(TRUTH)
    for row in rows:
        truth = task.rows.objects.truth(row, (SIZE[1], SIZE[0]), task.labels)
        expected = TRUTH[Path(row["image"]).stem]
        assert [task.labels_[n] for n in truth.labels.tolist()] == [kind for kind, *_ in expected]
        boxes = [[round(value, 3) for value in box] for box in truth.boxes.tolist()]
        assert boxes == [list(map(float, box)) for _, *box in expected]


def test_object_detection_reads_objects_of_a_hub_data_set(tmp_path: Path) -> None:
    """Objects are a dict of lists with ClassLabel numbers; the box convention is detected."""
    root = save_images(tmp_path)
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
    assert "boxes: xywh, the only fit for the first 3 boxes" in notes
    assert not [fault for row in rows for fault in task.rows.validate(row)]
    task.labels_, task.class_names_, note = learn_categories(rows, "objects", None)
    assert task.labels_ == ["dog", "cat"]
    assert "images without objects: 1" in note
    assert task.rows.objects.truth(rows[0], (80, 100), task.labels).boxes.tolist()[0] == [
        10,
        20,
        40,
        60,
    ]


def test_box_convention_must_be_set_if_several_fit() -> None:
    assert find_convention([([10, 10, 20, 20], (100, 100))]) is None
    rows = {
        "image": [Image.new("RGB", SIZE)],
        "objects": [[{"bbox": [5, 6, 20, 20], "label": "a"}]],
    }
    with pytest.raises(DataError, match="boxes fit several or none"):
        resolve(ObjectDetection(), rows)
    resolve(ObjectDetection(boxes="xyxy"), rows)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "labels/train/c.txt:2: has 3 numbers after its class"),
        ("2 0.5 0.5 0.2 0.2", "labels/train/c.txt:2: class 2 has no name in data.yaml (named: 0 to 1); do the files count from 1"),
        ("x 0.5 0.5 0.2 0.2", "labels/train/c.txt:2: 'x 0.5 0.5 0.2 0.2' is not a class and numbers"),
        ("1 50 40 20 20", "labels/train/c.txt:2: box [50, 40, 20, 20] has values over 1, like pixels"),
        ("1 0.95 0.5 0.2 0.2", "extends beyond the image of 100 x 80 pixels"),
        ("1 0.5 0.5 0.0 0.2", "is empty: its width or height is 0"),
    ],
)  # fmt: skip
def test_read_yolo_reports_the_place_and_cause_of_a_fault(
    line: str, fault: str, tmp_path: Path
) -> None:
    root = write_yolo(tmp_path / "set", ["cat", "dog"])
    with (root / "labels" / "train" / "c.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(DataError) as error:
        open_boxes(root)
    assert fault in str(error.value)
    assert "images/train/c.jpg" in str(error.value)
    _, rows, notes = open_boxes(root, on_error="skip")
    assert len(rows) == 2
    assert any("1 of 3 rows skipped" in note for note in notes)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((40, 60, 10, 20), "boxes.csv:2: box [40, 60, 10, 20] is reversed: right < left or bottom < top; it would fit as left, top, width, height: try task.boxes=xywh"),
        ((0.1, 0.2, 0.4, 0.6), "has no value over 1, like shares of the image size; it would fit as left, top, right, bottom in shares"),
        ((200, 200, 300, 300), "is outside the image"),
        ((10, 20, "?", 60), "is not four numbers"),
    ],
)  # fmt: skip
def test_box_fault_suggests_a_convention_that_fits(box: Any, fault: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = ",".join(map(str, ["a.jpg", *SIZE, "cat", *box]))
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        open_boxes(path)
    assert fault in str(error.value)


def test_on_error_clip_clips_boxes_and_stops_at_other_faults(tmp_path: Path) -> None:
    path = write_csv(tmp_path)
    text = path.read_text().replace("10,20,40,60", "60,20,140,60")
    path.write_text(text)
    task, rows, notes = open_boxes(path, on_error="clip")
    assert "train: 1 of 3 rows will be clipped (data.on_error)" in notes
    task.labels_, task.class_names_, _ = learn_categories(rows, "objects", None)
    assert task.rows.objects.truth(rows[0], (80, 100), task.labels).boxes.tolist()[0] == [
        60,
        20,
        100,
        60,
    ]
    path.write_text(text.replace("50,8,90,40", "90,8,50,40"))
    with pytest.raises(DataError, match="is reversed"):
        open_boxes(path, on_error="clip")


def test_task_boxes_sets_the_convention_of_a_file(tmp_path: Path) -> None:
    path = write_coco(tmp_path, {"cat": 1, "dog": 2})
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        left, top, width, height = item["bbox"]
        item["bbox"] = [left, top, left + width, top + height]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances.json, annotation 101: .* try task.boxes=xyxy"):
        open_boxes(path)
    _, rows, _ = open_boxes(path, task={"boxes": "xyxy"})
    assert len(rows) == 3


def test_read_voc_reports_faults_by_line(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set")
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<xmax>90</xmax>", ""))
    with pytest.raises(DataError, match=r"Annotations/a.xml:5: <bndbox> has no <xmax>"):
        open_boxes(root)
    path.write_text("<annotation><object>")
    with pytest.raises(DataError, match="a.xml: not a valid XML file"):
        open_boxes(root)


def test_box_formats_report_an_unknown_class_by_place(tmp_path: Path) -> None:
    task, rows, _ = open_boxes(write_csv(tmp_path))
    task.labels_ = ["cat"]
    assert not [fault for row in rows for fault in task.rows.validate(row)]
    faults = [fault for row in rows for fault in task.unseen(row)]
    assert [fault.partition(";")[0] for fault in faults] == [
        "boxes.csv:3: unknown class 'dog'",
        "boxes.csv:5: unknown class 'dog'",
    ]
    with pytest.raises(DataError, match="task.objects: not in task.labels: 'dog' .2 objects"):
        learn_categories(rows, "objects", ["cat"])
    with pytest.raises(ValueError, match="'cat' is listed 2 times"):
        ObjectDetection(labels=["cat", "cat"])
    assert learn_categories(rows, "objects", [" dog", "cat "])[0] == ["dog", "cat"]


def test_box_formats_do_not_claim_a_table_without_boxes(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("text,label\nhi,a\n")
    for path in (tmp_path / "news.csv", tmp_path):
        assert not [each.name for each in BOX_FORMATS if each.claims(path, "auto")]
    with pytest.raises(DataError, match=r"no data.yaml of YOLO"):
        next(each for each in BOX_FORMATS if each.claims(tmp_path, "yolo")).read(
            tmp_path, DataConfig()
        )
