"""Views of object detection: drawings, forms of other tools, outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.box_audits.drawing import UNKNOWN
from tests.support.command_line import finetune as finetune_command
from tests.support.detection_runs import build, train


def test_detection_views_draw_true_boxes_of_unknown_classes_and_skip_unreadable_ones(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    task, _, _ = build(detection_networks["fcos"], object_rows)
    box = {"bbox": [5.0, 20.0, 30.0, 25.0], "category": "zebra"}
    row = {**object_rows[2], "objects": [*object_rows[2]["objects"], box]}
    [pair] = task.views.draw(row, {"detections": []}, tmp_path, "pair")
    right = Image.open(pair).crop((64, 0, 200, 80))
    assert UNKNOWN in {color for _, color in right.getcolors(1 << 20) or []}
    [alone] = task.views.draw({**row, "objects": "none"}, {"detections": []}, tmp_path, "x")
    assert Image.open(alone).size == (64, 48)


@pytest.mark.parametrize("name", ["fcos", "rt-detr-v2", "detr"])
def test_detection_views_show_the_boxes_that_the_network_learns(
    name: str, detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, _, _ = build(detection_networks[name], object_rows)
    box = {"bbox": [16.0, 12.0, 48.0, 36.0], "category": "circle"}  # of 64 x 48 pixels
    rows = [{**object_rows[2], "objects": [box]}, {**object_rows[2], "objects": []}]
    batch = task.collate([task.encode(row) for row in rows])
    [(boxes, labels), (none, _)] = task.head_.learned_boxes(
        batch["targets"]["head"], batch["frames"][:, :2]
    )
    height = 48 if task.canvas_.keeps_aspect else 64
    expected = [16, height / 4, 48, height * 3 / 4]
    assert boxes.tolist() == [pytest.approx(expected, abs=1e-3)]
    assert [task.labels[label] for label in labels.tolist()] == ["circle"]
    assert len(none) == 0
    captions = [picture.caption for picture in task.views.pictures(batch)]
    assert captions == ["1 box", "0 boxes"]


PREDICTION = {
    "detections": [
        {
            "score": 0.9,
            "label": "circle",
            "box": {"xmin": 16.0, "ymin": 12.0, "xmax": 48.0, "ymax": 24.0},
        }
    ]
}


def test_detection_forms_are_those_of_other_tools(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, _, _ = build(detection_networks["fcos"], object_rows)
    forms, row = task.views.forms, object_rows[2]  # of 64 x 48 pixels
    number = task.labels.index("circle")
    [record] = forms["boxes"].records(row, "a/7.jpg", PREDICTION)
    assert tuple(record) == forms["boxes"].columns
    assert list(record.values()) == ["a/7.jpg", "circle", 0.9, 16.0, 12.0, 48.0, 24.0]
    [result] = forms["coco"].records(row, "a/0007.jpg", PREDICTION)
    assert (result["image_id"], result["category_id"]) == (7, number + 1)
    assert result["bbox"] == [16.0, 12.0, 32.0, 12.0]
    [line] = forms["yolo"].records(row, "a/7.jpg", PREDICTION)
    shares = ["0.500000", "0.375000", "0.500000", "0.250000", "0.900000"]
    assert list(line.values()) == [number, *shares]
    assert forms["yolo"].files["classes.txt"].splitlines()[number] == "circle"


# ---- commands


def test_predict_writes_boxes_in_other_forms_and_says_when_the_maximum_is_met(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path, capsys: Any
) -> None:
    run = train(detection_networks["rt-detr-v2"], scenes, tmp_path / "run", method="full")
    words = ["predict", run.path, scenes / "test" / "images", "score_threshold=0"]
    words += ["max_detections=3", "limit=4"]
    assert finetune_command(*words, "-o", tmp_path / "boxes.csv", "--as", "boxes") == 0
    assert "4 of 4 rows: 3 boxes predicted, the most that task.max" in capsys.readouterr().err
    lines = (tmp_path / "boxes.csv").read_text().splitlines()
    assert lines[0] == "image,label,score,xmin,ymin,xmax,ymax"
    assert len(lines) == 1 + 4 * 3
    assert finetune_command(*words, "-o", tmp_path / "coco.json", "--as", "coco") == 0
    assert len(json.loads((tmp_path / "coco.json").read_text())) == 4 * 3
    assert finetune_command(*words, "-o", tmp_path / "yolo", "--as", "yolo") == 0
    files = sorted(path.name for path in (tmp_path / "yolo").iterdir())
    assert len(files) == 5
    assert files[-1] == "classes.txt"
    capsys.readouterr()
    high = [*words[:3], "score_threshold=0.999", "-o", tmp_path / "none.csv", "--as", "boxes"]
    assert finetune_command(*high) == 0
    assert (tmp_path / "none.csv").read_text().splitlines() == lines[:1]
    for options, message in (
        (["-o", tmp_path / "boxes.csv", "--as", "box"], "unknown form; did you mean 'boxes'"),
        (["-o", tmp_path / "boxes.csv", "--as", "coco"], "file with ending .json"),
        (["-o", tmp_path / "boxes.csv", "--as", "yolo"], "name a folder with -o"),
    ):
        assert finetune_command(*words, *options) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rt-detr-v2", "detr"])
def test_inspect_of_query_detectors_in_bf16_draws_boxes(
    name: str, detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    words = ["task=object-detection", f"model={detection_networks[name]}", f"data={scenes}"]
    words += ["precision=bf16", "limit=8", "batch_size=4", "image_size=64"]
    assert finetune_command("inspect", *words, "--draw", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").is_file()
