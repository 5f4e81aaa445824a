"""model.dropout and model.drop_path: what they set, and where they mean nothing."""

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
def test_dropout_of_a_checkpoint_is_replaced(
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


def test_timm_networks_drop_out_and_leave_out_branches(tmp_path: Path) -> None:
    folder = tiny_timm(tmp_path / "resnet")
    assert paths(vision(folder)) == []
    found = paths(vision(folder, drop_path=0.2))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.2)
    images = {"inputs": {"pixel_values": torch.rand(16, 3, SIZE, SIZE)}}
    for keys in ({"dropout": 0.5}, {"drop_path": 0.5}):
        model, plain = vision(folder, **keys), vision(folder)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # those of the last of a branch begin at 0
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model.eval()(images), plain.eval()(images))
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        assert not torch.equal(model(images), plain(images)), keys


def test_transformers_networks_over_images_take_their_dropout(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "vit")
    assert shares(vision(folder, dropout=0.25)) == {0.25}
    with pytest.raises(ModelError, match=r"model.drop_path=0.1: .* has no stochastic depth"):
        vision(folder, drop_path=0.1)


def test_network_without_what_is_asked_for_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"model.drop_path=0.1: timm/vgg11 has no stochastic depth"
    ):
        vision("timm/vgg11", drop_path=0.1)


def test_encoder_under_a_decoder_leaves_out_branches_alone(tmp_path: Path) -> None:
    folder = tiny_timm(tmp_path / "resnet")

    def segmenter(**keys: float) -> nn.Module:
        source = find_source(ModelConfig(name=str(folder), **keys), None, None)
        return build_segmenter(source, "unet", ["ground", "thing"], (SIZE, SIZE))

    assert paths(segmenter()) == []
    assert paths(segmenter(drop_path=0.2))[-1] == pytest.approx(0.2)
    with pytest.raises(
        ModelError, match=r"model.dropout=0.1: .* has no dropout as it is used here"
    ):
        segmenter(dropout=0.1)


@pytest.mark.parametrize("key", ["model.dropout", "model.drop_path"])
def test_frozen_network_drops_nothing(
    key: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=0.1: method=frozen runs .*method=lora"):
        live(load(tmp_path / "run", bert_folder, news_csv, {"method": "frozen", key: 0.1}))
