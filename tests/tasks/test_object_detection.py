"""Object detection, from scenes to a final folder that transformers loads alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config import ModelConfig
from finetune.loop import seed_dropout  # noqa: F401
from finetune.testing import check_task
from tasks import ObjectDetection
from tasks.annotations.formats import read_boxes
from tests.lives import one_thread
from tests.tiny_detectors import MAKERS, tiny_detector
from tests.tiny_scenes import scene_folder
from tests.tiny_vision import tiny_timm

SIDE = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("detectors")
    with one_thread():
        made = {name: tiny_detector(root / name, name) for name in MAKERS}
        return {"fcos": tiny_timm(root / "timm", "test_efficientnet"), **made}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def rows(scenes: Path) -> list[dict[str, Any]]:
    """8 scenes, the first of which shows no object."""
    found = read_boxes(scenes, "coco")
    assert found is not None
    return list(found["train"][:8])


def small(**keys: Any) -> ObjectDetection:
    return ObjectDetection(**{"image_size": SIDE, "fpn_width": 64, "head_convs": 1, **keys})


def build(network: Path, rows: list[dict[str, Any]], **keys: Any) -> tuple[ObjectDetection, Any]:
    import datasets

    task, table = small(**keys), datasets.Dataset.from_list(rows)
    task.choose_columns(table[:100])
    task.setup(table, ModelConfig(name=str(network)), frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(ModelConfig(name=str(network))).eval()


@pytest.mark.parametrize("name", ["fcos", *MAKERS])
def test_every_detector_keeps_the_contract(
    name: str, networks: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    check_task(small(), rows, str(networks[name]))
