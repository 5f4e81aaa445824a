"""Fixtures shared by the tests of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def model_folders(
    gpt2_folder: Path, llama_folder: Path, t5_folder: Path, bart_folder: Path
) -> dict[str, Path]:
    """Tiny language models on disk, by architecture."""
    return {"gpt2": gpt2_folder, "llama": llama_folder, "t5": t5_folder, "bart": bart_folder}


@pytest.fixture(scope="session")
def vision_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny networks of timm and (vit) transformers on disk; keys as in `NETWORKS`."""
    from tests.support.tiny_vision import SIZE, tiny_timm, tiny_vit

    root = tmp_path_factory.mktemp("networks")
    return {
        "resnet": tiny_timm(root / "resnet"),
        "efficientnet": tiny_timm(root / "efficientnet", "test_efficientnet"),
        "timm-vit": tiny_timm(root / "timm-vit", "test_vit", img_size=SIZE),
        "vit": tiny_vit(root / "vit"),
    }


@pytest.fixture(scope="session")
def shape_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of shapes in class folders; read only."""
    from tests.support.tiny_vision import shape_folder

    return shape_folder(tmp_path_factory.mktemp("data") / "shapes", 60)


@pytest.fixture(scope="session")
def segmentation_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny encoders of timm and segmentation networks of transformers on disk."""
    from tests.support.tiny_scenes import tiny_segformer, tiny_upernet
    from tests.support.tiny_vision import tiny_timm

    root = tmp_path_factory.mktemp("networks")
    return {
        "resnet": tiny_timm(root / "resnet"),
        "efficientnet": tiny_timm(root / "efficientnet", "test_efficientnet"),
        "convnext": tiny_timm(root / "convnext", "test_convnext"),
        "segformer": tiny_segformer(root / "segformer"),
        "upernet": tiny_upernet(root / "upernet"),
    }


@pytest.fixture(scope="session")
def detection_networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A timm backbone ("fcos") and detectors of transformers on disk, all tiny."""
    from tests.support.tiny_detectors import MAKERS, tiny_detector
    from tests.support.tiny_vision import tiny_timm

    root = tmp_path_factory.mktemp("detectors")
    detectors = {name: tiny_detector(root / name, name) for name in MAKERS}
    return {"fcos": tiny_timm(root / "timm", "test_efficientnet"), **detectors}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 12 test scenes with masks and COCO boxes; read only."""
    from tests.support.tiny_scenes import scene_folder

    return scene_folder(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="session")
def object_rows(scenes: Path) -> list[dict[str, Any]]:
    """Rows of 8 training scenes; the first two have no objects."""
    from finetune.config.schema import DataConfig
    from tasks.annotations.box_formats import read_coco_boxes

    train = read_coco_boxes(scenes, DataConfig()).splits["train"]
    rows = [train[index] for index in (0, 10, *range(1, 7))]
    assert [bool(row["objects"]) for row in rows] == [False] * 2 + [True] * 6
    return rows
