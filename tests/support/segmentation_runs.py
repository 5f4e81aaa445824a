"""Segmentation tasks and runs on tiny networks and scenes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

import finetune
from finetune.config.schema import ModelConfig
from tasks import Segmentation
from tasks.masks.segmentation_models import SegmentationModel
from tests.support.tiny_scenes import scene_rows


def build(
    network: Path | ModelConfig, scenes: Path, **keys: Any
) -> tuple[Segmentation, SegmentationModel]:
    """Set up a task on a few scenes; return it and its untrained model."""
    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    task = Segmentation(image="image", mask="mask", **{"image_size": [32, 48], **keys})
    task.setup(Dataset.from_list(scene_rows(scenes)), source, frozen=False)
    torch.manual_seed(0)
    model = task.build_model(source)
    return task, model.eval()


def train(network: Path, data: Any, folder: Path, **keys: Any) -> Any:
    """Run a short training on the CPU; `keys` override its config."""
    defaults = {"epochs": 2, "batch_size": 8, "precision": "fp32", "image_size": [32, 48]}
    keys = {"model": str(network), "output": str(folder), "data": str(data), **defaults, **keys}
    return finetune.train("segmentation", **keys)
