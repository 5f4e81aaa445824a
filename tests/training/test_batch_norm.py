"""A batch of a single row under BatchNorm is refused before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ConfigError
from tests.support.image_classifiers import train_classifier
from tests.support.tiny_vision import shape_folder, tiny_timm


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_timm(tmp_path_factory.mktemp("network") / "resnet")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shape_folder(tmp_path_factory.mktemp("images") / "shapes", 20)


def train(network: Path, images: Path, folder: Path, **keys: Any) -> None:
    data = {"source": str(images), "validation": 0}
    train_classifier(
        network, data, folder / "run", method=keys.pop("method", "full"), **{"epochs": 1, **keys}
    )


@pytest.mark.parametrize("method", ["full", "partial"])
def test_last_batch_of_one_row_is_refused(
    method: str, network: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"=19: the last batch .* 1 of 20 rows.*batch_size=18"):
        train(network, images, tmp_path, batch_size=19, method=method)


def test_micro_batches_of_one_row_are_refused(network: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"micro_batch=1: some micro-batches.*raise train\.micro"):
        train(network, images, tmp_path, batch_size=10, micro_batch=1)


@pytest.mark.parametrize(
    "keys",
    [
        {"batch_size": 18},
        {"batch_size": 19, "method.batch_norm": "freeze"},
        {"batch_size": 19, "max_steps": 1},
        {"batch_size": 19, "task.image_size": 128},  # feature maps of several pixels
        {"batch_size": 19, "method": "lora"},
    ],
    ids=["size", "freeze", "steps", "maps", "lora"],
)
def test_batches_that_can_be_normalized_are_trained(
    keys: dict[str, Any], network: Path, images: Path, tmp_path: Path
) -> None:
    train(network, images, tmp_path, **keys)
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
