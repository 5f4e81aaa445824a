"""Image classifiers on tiny networks, for tests: set-up without training, short runs, inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

import finetune
from finetune.config.schema import ModelConfig
from tasks import ImageClassification
from tasks.backbones.vision_models import VisionModel
from tests.support.contract import resolve
from tests.support.tiny_vision import SIZE, shape_rows

NETWORKS = ("resnet", "efficientnet", "timm-vit", "vit")
"""Keys of the fixture `vision_networks`."""


def set_up_classifier(
    network: Path | ModelConfig, **keys: Any
) -> tuple[ImageClassification, VisionModel]:
    """Set up a task on a few shapes; return it and its untrained model in eval mode."""
    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    rows = Dataset.from_list(shape_rows())
    task = ImageClassification(**keys)
    resolve(task, rows[:10])
    task.setup(rows, source, frozen=False)
    torch.manual_seed(0)
    model = task.build_model(source)
    assert isinstance(model, VisionModel)
    return task, model.eval()


def train_classifier(network: Path, data: Any, folder: Path, **keys: Any) -> finetune.Run:
    """Train for 2 epochs, unless `keys` say otherwise."""
    defaults = {"epochs": 2, "batch_size": 16, "precision": "fp32", "data.split_seed": 1}
    source = {"data": str(data)} if isinstance(data, Path) else {"data": data}
    keys = {"model": str(network), "output": str(folder), **defaults, **source, **keys}
    return finetune.train("image-classification", **keys)


def random_images(count: int = 4) -> torch.Tensor:
    """Return seeded random inputs [count, 3, SIZE, SIZE]."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
