"""Object-detection tasks and runs on tiny networks and scenes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch

import finetune
from finetune.config.schema import ModelConfig
from tasks import ObjectDetection
from tests.support.contract import resolve

SIDE = 64  # side of the detectors' input, in pixels
SMALL = {"image_size": SIDE, "fpn_width": 64, "head_convs": 1}


def build(
    network: Path | ModelConfig, rows: list[dict[str, Any]], **keys: Any
) -> tuple[ObjectDetection, Any, list[str]]:
    """Set up a task on rows; return it, its untrained model and the notes of the set-up."""
    source = network if isinstance(network, ModelConfig) else ModelConfig(name=str(network))
    task, table = ObjectDetection(**{**SMALL, **keys}), datasets.Dataset.from_list(rows)
    resolve(task, table[:100])
    notes = task.setup(table, source, frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(source).eval(), notes


def train(network: Path, data: Path, folder: Path, **keys: Any) -> finetune.api.Run:
    """Run a short training on the CPU; `keys` override its config."""
    places = {"model": str(network), "data": str(data), "output": str(folder)}
    defaults = {"epochs": 1, "batch_size": 8, "precision": "fp32", "data.limit": 16}
    return finetune.train("object-detection", **{**places, **defaults, **SMALL, **keys})
