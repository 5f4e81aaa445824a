"""Label Studio: regions of images, and choices for texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import AmbiguityError
from tasks import TextClassification
from tasks.exports.export_images import local_name
from tasks.exports.outlines import decode_brush
from tests.support.annotated_sets import (
    BOX,
    MASK,
    SIZE,
    open_set,
    read_boxes,
    read_classes,
    refusal,
    save_pictures,
    write_json,
)
from tests.support.tool_exports import (
    LEFT,
    RIGHT,
    TOP,
    choice,
    polygon,
    rectangle,
    region,
    studio_task,
)

SQUARE = ("square", *BOX)
MIN = {"annotator": 1, "annotation_id": 1, "created_at": "", "updated_at": "", "lead_time": 1.5}


def write(folder: Path, *tasks: Any, images: tuple[str, ...] = ("a.jpg",)) -> Path:
    save_pictures(folder, images)
    write_json(folder / "project.json", list(tasks))
    return folder


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ("/data/upload/1/1a2b3c4d-a%20b.jpg", "/data/upload/1/1a2b3c4d-a b.jpg"),
        ("s3://bucket/photos/a.jpg", "photos/a.jpg"),
        ("https://host/x/a.jpg?token=1", "x/a.jpg"),
        ("/data/local-files/?d=photos%2Fa.jpg", "photos/a.jpg"),
        ("file:///home/u/a%20b.jpg", "home/u/a b.jpg"),
        ("a.jpg", "a.jpg"),
        ("http://[bad", "http://[bad"),
    ],
)
def test_names_are_read_without_scheme_host_and_encoding(recorded: str, expected: str) -> None:
    assert local_name(recorded) == expected


@pytest.mark.parametrize(
    "recorded",
    [
        "/data/upload/1/1a2b3c4d-a.jpg",
        "s3://bucket/photos/a.jpg",
        "/data/local-files/?d=photos%2Fa.jpg",
        "C:\\photos\\a.jpg",
    ],
)
def test_images_are_found_by_names_of_other_machines(recorded: str, tmp_path: Path) -> None:
    rows, _ = read_boxes(write(tmp_path, studio_task(region(rectangle()), image=recorded)))
    assert rows == [[SQUARE]]


def test_uploaded_images_that_keep_their_prefix_are_found(tmp_path: Path) -> None:
    task = studio_task(region(rectangle()), image="/data/upload/1/1a2b3c4d-a.jpg")
    rows, _ = read_boxes(write(tmp_path, task, images=("1a2b3c4d-a.jpg",)))
    assert rows == [[SQUARE]]


def test_what_is_not_read_of_tasks_is_counted(tmp_path: Path) -> None:
    two = studio_task(region(rectangle()), image="b.jpg", number=2)
    two["annotations"] *= 2
    skipped = studio_task(number=3)
    skipped["annotations"][0]["was_cancelled"] = True
    key_point = region({"x": 1, "y": 1, "width": 1, "keypointlabels": ["k"]}, "keypointlabels")
    tasks = [
        studio_task(key_point, predictions=[{"result": []}]),
        two,
        skipped,
        {"id": 4, "data": {"image": "a.jpg"}, "annotations": []},
    ]
    rows, notes = read_boxes(write(tmp_path, *tasks, images=("a.jpg", "b.jpg")))
    assert rows == [[], [SQUARE]]
    assert (
        "not read: predictions (1), further annotations of a task (1), skipped tasks (1),"
        " tasks without annotations (1), results of type keypointlabels (1)" in notes
    )
    assert "images without objects: 1 of 2" in notes


def test_ground_truth_is_read_before_other_annotations(tmp_path: Path) -> None:
    task = studio_task()
    task["annotations"].append({"ground_truth": True, "result": [region(rectangle())]})
    assert read_boxes(write(tmp_path, task))[0] == [[SQUARE]]


def test_labels_apart_from_their_rectangle_are_joined(tmp_path: Path) -> None:
    shape = {key: value for key, value in rectangle().items() if key != "rectanglelabels"}
    parts = region(shape, "rectangle"), region({**shape, "labels": ["square"]}, "labels")
    assert read_boxes(write(tmp_path, studio_task(*parts)))[0] == [[SQUARE]]


def test_several_labels_of_a_region_are_a_fault(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, studio_task(region(rectangle(["cat", "dog"])))))
    assert "has the labels cat, dog; one is needed" in message


def test_images_turned_in_the_tool_are_a_fault(tmp_path: Path) -> None:
    task = studio_task(region(rectangle(), image_rotation=90))
    assert "was turned by 90 degrees in Label Studio" in refusal(write(tmp_path, task))


def test_rectangles_turn_around_their_corner(tmp_path: Path) -> None:
    task = studio_task(region(rectangle(rotation=90)))
    rows, notes = read_boxes(write(tmp_path, task))
    assert rows == [[("square", LEFT - 14, TOP, LEFT, TOP + RIGHT - LEFT)]]
    assert "turned boxes read as polygons: 1" in notes


def test_percents_apply_to_images_of_another_size_and_same_shape(tmp_path: Path) -> None:
    size = {"original_width": 2 * SIZE[0], "original_height": 2 * SIZE[1]}
    assert read_boxes(write(tmp_path, studio_task(region(rectangle(), **size))))[0] == [[SQUARE]]


def test_images_of_another_shape_are_a_fault(tmp_path: Path) -> None:
    size = {"original_width": SIZE[0], "original_height": 2 * SIZE[1]}
    message = refusal(write(tmp_path, studio_task(region(rectangle(), **size))))
    assert "states 96 x 144 pixels, but the image has 96 x 72 pixels" in message


def test_min_exports_are_read(tmp_path: Path) -> None:
    value = {**rectangle(), "original_width": SIZE[0], "original_height": SIZE[1]}
    tasks = [
        {"image": "/data/upload/1/1a2b3c4d-a.jpg", "id": 1, "label": [value], **MIN},
        {"image": "/data/upload/1/1a2b3c4d-b.jpg", "id": 2, **MIN},
    ]
    rows, _ = read_boxes(write(tmp_path, *tasks, images=("a.jpg", "b.jpg")))
    assert rows == [[SQUARE], []]


def test_polygons_are_read_as_masks(tmp_path: Path) -> None:
    path = write(tmp_path, studio_task(region(polygon(), "polygonlabels")))
    assert read_classes(path)[0] == [MASK.tolist()]


def test_several_images_of_a_task_need_a_key(tmp_path: Path) -> None:
    task = studio_task(region(rectangle()))
    task["data"]["other"] = "b.jpg"
    path = write(tmp_path, task, images=("a.jpg", "b.jpg"))
    assert "image, other; choose one with data.field=image" in refusal(path)
    assert read_boxes(path, field="image")[0] == [[SQUARE]]


# ---- brushes


def pack(values: Any) -> list[int]:
    """Pack bytes as thi.ng/rle-pack does, with runs of up to 2 ** 16 equal words."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (4, 8, 12, 16))
    borders = np.flatnonzero(np.diff(values)) + 1
    for run in np.split(values, borders):
        bits += f"1{3:02b}{len(run) - 1:016b}{run[0]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def test_brushes_are_masks(tmp_path: Path) -> None:
    values = {"format": "rle", "rle": pack(np.repeat(MASK.ravel() * 255, 4))}
    path = write(
        tmp_path, studio_task(region({**values, "brushlabels": ["square"]}, "brushlabels"))
    )
    assert read_classes(path)[0] == [MASK.tolist()]
    assert read_boxes(path)[0] == [[SQUARE]]


def test_brush_words_may_be_listed_one_by_one() -> None:
    head = f"{8:032b}{7:05b}" + f"{3:04b}" * 4
    words = "".join(f"{value:08b}" for value in (0, 0, 0, 0, 255, 255, 255, 255))
    bits = head + f"000{7:04b}" + words
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize("rle", [[], [0] * 9, "text", [1, 2, 300], pack(np.zeros(8, np.uint8))])
def test_malformed_brushes_are_faults(rle: Any, tmp_path: Path) -> None:
    value = {"format": "rle", "rle": rle, "brushlabels": ["square"]}
    assert "rle" in refusal(write(tmp_path, studio_task(region(value, "brushlabels"))))


# ---- texts


def read_texts(folder: Path, tasks: list[Any], **keys: Any) -> tuple[list[Any], list[str]]:
    splits = open_set(TextClassification(), write_json(folder / "p.json", tasks), **keys)
    rows = [{k: v for k, v in row.items() if k != "file"} for row in splits.train]
    return rows, splits.notes


def test_choices_for_texts_are_labels(tmp_path: Path) -> None:
    tasks = [
        choice(1, {"review": "Good."}, mood=["up"]),
        choice(2, {"review": "Bad."}, mood=["down"]),
        choice(3, {"review": "Well."}),
    ]
    rows, notes = read_texts(tmp_path, tasks)
    assert rows == [{"text": "Good.", "label": "up"}, {"text": "Bad.", "label": "down"}]
    assert any("field 'review' as text, choice 'mood' as label" in note for note in notes)
    assert "p.json: not read: tasks without annotations (1)" in notes


def test_several_choices_are_several_labels(tmp_path: Path) -> None:
    tasks = [
        choice(n, {"text": f"t {n}"}, mood=["up", "fast"] if n % 2 else ["up"]) for n in (1, 2)
    ]
    assert [row["label"] for row in read_texts(tmp_path, tasks)[0]] == [["up", "fast"], ["up"]]


def test_two_choices_of_a_task_need_a_key(tmp_path: Path) -> None:
    tasks = [choice(n, {"text": f"t {n}"}, mood=["up"], topic=["a"]) for n in (1, 2)]
    with pytest.raises(AmbiguityError, match="several choices: mood, topic; .* data.field=mood"):
        read_texts(tmp_path, tasks)
    rows, notes = read_texts(tmp_path, tasks, field="topic")
    assert [row["label"] for row in rows] == ["a", "a"]
    assert any("not read" in note and "choices of 'mood'" in note for note in notes)


def test_two_texts_of_a_task_need_a_key(tmp_path: Path) -> None:
    tasks = [choice(n, {"one": f"a b {n}", "two": f"c d {n}"}, mood=["up"]) for n in (1, 2)]
    with pytest.raises(AmbiguityError, match="task.text"):
        read_texts(tmp_path, tasks)


def test_min_choices_are_labels(tmp_path: Path) -> None:
    tasks = [{"text": f"t {n}", "id": n, "mood": "up", **MIN} for n in (1, 2)]
    rows, _ = read_texts(tmp_path, tasks)
    assert rows == [{"text": "t 1", "label": "up"}, {"text": "t 2", "label": "up"}]
