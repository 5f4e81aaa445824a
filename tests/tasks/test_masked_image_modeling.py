"""Masked image modeling: the contract, whole runs, and the runs that begin with their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForMaskedImageModeling

import finetune
from finetune.batching.data_loader import encoding_rng
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.testing import check_task
from tasks import MaskedImageModeling
from tasks.pretraining.patch_masking import PatchMasking, choose_side, enlarge
from tests.support.tiny_vision import shape_rows, tiny_timm

ROWS = [{"image": row["image"]} for row in shape_rows(6)]


@pytest.fixture(scope="module")
def networks(
    vision_networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    convnext = tiny_timm(tmp_path_factory.mktemp("networks") / "convnext", "test_convnext")
    return {**vision_networks, "convnext": convnext}


def train(folder: Path, model: Path, **keys: Any) -> Any:
    settings: dict[str, Any] = {"method": "full", "epochs": 1, "batch_size": 8}
    settings |= {"data.validation": 0.25, "precision": "fp32", "output": str(folder)}
    return finetune.train(
        "masked-image-modeling", data=shape_rows(24), model=str(model), **settings | keys
    )


@pytest.mark.parametrize(
    ("network", "keys"),
    [
        ("vit", {}),
        ("resnet", {}),
        ("convnext", {"noise": 0.2}),  # a norm of its head does not see the feature map
        ("timm-vit", {}),
        ("efficientnet", {"mask_ratio": 0, "code_size": 16, "pixel_loss": "l2"}),
    ],
)
def test_masked_image_modeling_keeps_the_task_contract(
    network: str, keys: dict[str, Any], networks: dict[str, Path]
) -> None:
    check_task(MaskedImageModeling(**keys), ROWS, str(networks[network]))


def test_masks_differ_by_epoch_and_row_but_not_by_batch(networks: dict[str, Path]) -> None:
    from datasets import Dataset

    task = MaskedImageModeling(augmentation="none")
    task.setup(Dataset.from_list(ROWS), ModelConfig(name=str(networks["vit"])), frozen=False)
    draws = [
        task.encode(ROWS[0], encoding_rng(0, epoch, index))["inputs"]["masked_patches"]
        for epoch, index in ((0, 5), (1, 5), (0, 6), (0, 5))
    ]
    assert torch.equal(draws[0], draws[3])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 3
    held_out = [task.encode(ROWS[0])["inputs"]["masked_patches"] for _ in range(2)]
    assert torch.equal(*held_out), "held-out masks are fixed"


def test_masked_pixels_are_the_mean_and_the_share_is_kept() -> None:
    rng = np.random.default_rng(0)
    masking = PatchMasking(side=8, ratio=0.6, noise=0.5)
    mask = masking.draw((32, 48), rng)
    assert mask.shape == (4, 6)
    assert int(mask.sum()) == round(0.6 * 24)
    pixels = torch.ones(3, 32, 48)
    read = masking.corrupt(pixels, mask, rng)
    hidden = enlarge(mask, 8).expand(3, -1, -1)
    assert not read[hidden].any()
    assert read[~hidden].std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("size", "patch", "stride", "side"),
    [
        ((224, 224), 1, 32, 32),
        ((192, 192), 4, 32, 32),
        ((224, 224), 16, 16, 16),
        ((112, 112), 1, 32, 28),
        ((28, 28), 1, 32, 7),
        ((32, 32), 8, 8, 8),
    ],
)
def test_patches_divide_the_image_and_are_multiples_of_the_networks(
    size: tuple[int, int], patch: int, stride: int, side: int
) -> None:
    assert choose_side(size, patch, stride, None) == side


def test_patches_that_do_not_fit_are_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"task.mask_patch=10: .* in patches of 8, 16; choose"):
        choose_side((32, 32), 8, 32, 10)


def test_autoencoder_is_saved_as_timm_saves_its_encoder(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    run = train(tmp_path / "run", networks["convnext"])
    encoder = timm.create_model(f"local-dir:{run.path / 'final'}", pretrained=True)
    before = load_file(networks["convnext"] / "model.safetensors")
    after = encoder.state_dict()
    assert set(before) - set(after) == {"head.fc.weight", "head.fc.bias"}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name in after if name not in changed} == {"head.norm.weight", "head.norm.bias"}
    assert (run.path / "reports/validation/reconstructions.jpg").is_file()
    (prediction,) = finetune.load(run.path)([ROWS[0]["image"]])
    assert isinstance(prediction["reconstruction"], Image.Image)
    assert prediction["rmse"] > 0


def test_next_run_keeps_the_decoder_and_other_tasks_the_backbone(
    networks: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tmp_path / "first", networks["resnet"])
    train(tmp_path / "second", first.path)
    assert "decoder: kept from the checkpoint" in capsys.readouterr().out
    run = finetune.train(
        "image-classification",
        data=shape_rows(24),
        model=str(first.path),
        method="frozen",
        epochs=1,
        output=str(tmp_path / "classes"),
    )
    kept = load_file(run.path / "final/model.safetensors")
    trained = load_file(first.path / "final/model.safetensors")
    assert torch.equal(kept["conv1.0.weight"], trained["conv1.0.weight"])


def test_network_of_transformers_loads_for_masked_image_modeling(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    run = train(tmp_path / "run", networks["vit"], method="lora")
    network, info = AutoModelForMaskedImageModeling.from_pretrained(
        run.path / "final", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert network.config.encoder_stride == network.config.patch_size == 8
    assert {"rmse", "mae", "r2", "loss"} <= {*run.metrics["validation"]}


def test_keys_and_networks_without_a_meaning_are_refused(
    networks: dict[str, Path], bert_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="task.code_size: the decoders of transformers"):
        check_task(MaskedImageModeling(code_size=8), ROWS, str(networks["vit"]))
    with pytest.raises(ModelError):
        check_task(MaskedImageModeling(), ROWS, str(bert_folder))
