"""Exports that are refused, or of which a part is: labels, repeated images, the choice of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.commands.init import write_starter
from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks import Segmentation
from tests.support.annotated_sets import read_boxes, refusal, save_pictures, write_json
from tests.support.tool_exports import (
    CREATEML,
    VIA_BOX,
    choice,
    labelme,
    rectangle,
    region,
    shape,
    studio_task,
    via,
    via_region,
    write_export,
)


@pytest.mark.parametrize("label", [{"a": 1}, ["square"]])
def test_labels_that_are_not_names_are_faults(label: Any, tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "a.json", labelme([shape(label=label)]))
    assert "is not a name" in refusal(tmp_path)


def test_entries_of_one_image_are_joined(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "c.json", [*CREATEML, *CREATEML])
    assert [len(objects) for objects in read_boxes(tmp_path)[0]] == [2]


def test_regions_of_one_image_are_joined(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    regions = [via_region({"class": "square"}, **VIA_BOX)]
    both = {"one": via(regions)["a.jpg12"], "two": via(regions)["a.jpg12"]}
    write_json(tmp_path / "via.json", both)
    assert [len(objects) for objects in read_boxes(tmp_path)[0]] == [2]


def test_tasks_of_one_image_are_faults(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    tasks = [studio_task(region(rectangle()), number=number) for number in (1, 2)]
    write_json(tmp_path / "p.json", tasks)
    message = refusal(tmp_path)
    assert "p.json, task 2: its image is also annotated in p.json, task 1" in message


def test_init_leaves_out_a_task_that_refuses_an_export(tmp_path: Path) -> None:
    path = write_export(tmp_path / "set", "createml")
    config = write_starter([str(path)], tmp_path / "c.yaml").read_text()
    assert "name: object-detection" in config
    assert "task=segmentation" not in config


def test_init_says_why_no_task_reads_an_export(tmp_path: Path) -> None:
    save_pictures(tmp_path, ["a.jpg"])
    write_json(tmp_path / "p.json", [choice(1, {"image": "a.jpg"}, kind=[])])
    with pytest.raises(DataError, match="no task reads this data") as caught:
        write_starter([str(tmp_path)], tmp_path / "c.yaml")
    assert "has no regions of images; found results of type choices (1)" in str(caught.value)


def test_classes_that_training_did_not_see_are_named(tmp_path: Path) -> None:
    task = Segmentation()
    read = {each.name: each for each in task.config.formats}["labelme"].read
    (seen,) = read(write_export(tmp_path / "one", "labelme"), DataConfig()).splits["train"]
    other = write_export(tmp_path / "two", "labelme") / "a.json"
    other.write_text(other.read_text().replace("square", "ball"))
    (unseen,) = read(other.parent, DataConfig()).splits["train"]
    task.settle({"image": "image", "mask": "objects"})
    masks = task.rows.masks
    coding, _ = masks.learn([seen])
    assert list(masks.unseen(unseen, coding)) == ["objects has values without a class: ball"]
