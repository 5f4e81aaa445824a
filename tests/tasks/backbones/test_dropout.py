"""The keys model.dropout and model.drop_path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from tasks.backbones.vision_sources import build_vision_model, find_source
from tasks.masks.segmentation_sources import build_segmenter
from tasks.text.text_models import load_native, load_pooled
from tests.support.lives import live, load
from tests.support.tiny_vision import SIZE, tiny_timm, tiny_vit


def shares(network: nn.Module) -> set[float]:
    return {module.p for module in network.modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize("load_model", ["native", "pooled"])
def test_dropout_overrides_that_of_the_checkpoint(
    load_model: str, bert_folder: Path, gpt2_folder: Path, llama_folder: Path
) -> None:
    for folder in (bert_folder, gpt2_folder):
        source = ModelConfig(name=str(folder), dropout=0.35)
        load: Any = load_native if load_model == "native" else load_pooled
        args: Any = (
            {"num_labels": 3} if load_model == "native" else {"pooling": "mean", "outputs": 3}
        )
        model = load(source, **args)
        assert shares(model.network) == {0.35}, folder
        before = shares(load(ModelConfig(name=str(folder)), **args).network)
        assert before == {0.1}, folder
    network: Any = load_pooled(ModelConfig(name=str(llama_folder), dropout=0.35), "last", 3).network
    assert network.backbone.layers[0].self_attn.attention_dropout == 0.35


def vision(folder: Path | str, **keys: float) -> nn.Module:
    return build_vision_model(
        find_source(ModelConfig(name=str(folder), **keys), None, None), ["a", "b"]
    )


def paths(network: nn.Module) -> list[float]:
    modules: Any = network.modules()
    return [module.drop_prob for module in modules if type(module).__name__ == "DropPath"]


def test_dropout_and_drop_path_apply_to_timm_networks(tmp_path: Path) -> None:
    folder = tiny_timm(tmp_path / "resnet")
    assert paths(vision(folder)) == []
    probabilities = paths(vision(folder, drop_path=0.2))
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] == pytest.approx(0.2)
    images = {"inputs": {"pixel_values": torch.rand(16, 3, SIZE, SIZE)}}
    for keys in ({"dropout": 0.5}, {"drop_path": 0.5}):
        model, plain = vision(folder, **keys), vision(folder)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # the last one of a branch is initialized to 0
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model.eval()(images), plain.eval()(images))
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        assert not torch.equal(model(images), plain(images)), keys


def test_dropout_applies_to_transformers_vision_networks(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "vit")
    assert shares(vision(folder, dropout=0.25)) == {0.25}
    with pytest.raises(ModelError, match=r"model.drop_path=0.1: .* has no stochastic depth"):
        vision(folder, drop_path=0.1)


def test_drop_path_is_rejected_without_stochastic_depth() -> None:
    with pytest.raises(
        ModelError, match=r"model.drop_path=0.1: timm/vgg11 has no stochastic depth"
    ):
        vision("timm/vgg11", drop_path=0.1)


def test_drop_path_applies_to_segmentation_encoders_but_dropout_does_not(tmp_path: Path) -> None:
    folder = tiny_timm(tmp_path / "resnet")

    def segmenter(**keys: float) -> nn.Module:
        source = find_source(ModelConfig(name=str(folder), **keys), None, None)
        return build_segmenter(source, "unet", ["ground", "thing"], (SIZE, SIZE))

    assert paths(segmenter()) == []
    assert paths(segmenter(drop_path=0.2))[-1] == pytest.approx(0.2)
    with pytest.raises(
        ModelError, match=r"model.dropout=0.1: .* has no dropout in the parts used here"
    ):
        segmenter(dropout=0.1)


@pytest.mark.parametrize("key", ["model.dropout", "model.drop_path"])
def test_dropout_is_rejected_for_a_frozen_backbone(
    key: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=0.1: method=frozen runs .*method=lora"):
        live(load(tmp_path / "run", bert_folder, news_csv, {"method": "frozen", key: 0.1}))
