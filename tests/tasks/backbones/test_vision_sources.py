"""Resolution of model.name to a vision network and its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from tasks.backbones.vision_sources import find_source
from tasks.image.preprocessing import INPUT
from tests.support.image_classifiers import set_up_classifier
from tests.support.tiny_vision import SIZE, shape_rows, tiny_timm


def test_preprocessing_is_read_from_the_network(vision_networks: dict[str, Path]) -> None:
    task, _ = set_up_classifier(vision_networks["resnet"])
    assert task.preprocessing_.size == (SIZE, SIZE)
    assert task.preprocessing_.edge == int(SIZE / 0.9)
    stretched, _ = set_up_classifier(vision_networks["vit"])
    assert stretched.preprocessing_.edge is None
    assert stretched.preprocessing_.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["resnet", "timm-vit"])
def test_image_size_survives_saving_and_reloading(
    name: str, vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    task, model = set_up_classifier(vision_networks[name], image_size=48)
    task.save(model, tmp_path / "final")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'final'}", pretrained=True).eval()
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (3, 48, 48)
    assert task.encode(shape_rows()[0])["inputs"][INPUT].shape == (3, 48, 48)


def test_image_size_is_rejected_if_the_network_does_not_accept_it(
    vision_networks: dict[str, Path],
) -> None:
    message = r"task.image_size: this network does not accept .* 48 x 48"
    with pytest.raises(ModelError, match=message):
        set_up_classifier(vision_networks["vit"], image_size=48)


@pytest.mark.parametrize(
    "key", [{"attention": "eager"}, {"quantize": "4bit"}, {"match": "order"}, {"revision": "v1"}]
)
def test_keys_without_effect_are_rejected_for_timm(
    key: dict[str, Any], vision_networks: dict[str, Path]
) -> None:
    source = ModelConfig(name=str(vision_networks["timm-vit"]), **key)
    ((name, value),) = key.items()
    with pytest.raises(ModelError, match=rf"model\.{name}={value}: .* remove the key"):
        set_up_classifier(source)


def test_revision_is_rejected_for_an_architecture_of_timm() -> None:
    with pytest.raises(ModelError, match="model.revision=v1: .* timm chooses the revision"):
        set_up_classifier(ModelConfig(name="timm/resnet18", revision="v1"))


def test_model_name_suggests_the_nearest_timm_architecture() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        set_up_classifier(ModelConfig(name="timm/resnet-18"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", [3, 10**6, 10**6]),
        ("input_size", [-3, "a"]),
        ("input_size", [3, 0, 0]),
        ("mean", [0.5, float("nan"), 0.5]),
        ("std", [0.5, 0, 0.5]),
        ("std", [float("inf")] * 3),
    ],
)
def test_find_source_refuses_invalid_preprocessing(key: str, value: Any, tmp_path: Path) -> None:
    folder = tiny_timm(tmp_path / "timm")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the preprocessing of .* is not valid \(.*config.json"):
        find_source(ModelConfig(name=str(folder)), None, None)
