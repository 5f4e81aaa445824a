"""A pretrained network that cannot be used is refused before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune
from finetune.errors import FinetuneError, ModelError
from tests.support.tiny_detectors import tiny_detector
from tests.support.tiny_models import text_rows, tiny_bert
from tests.support.tiny_scenes import scene_folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("scenes") / "scenes", 6, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_queries", 0),
        ("activation_dropout", 10**400),
        ("encoder_attention_heads", 3),
        ("decoder_attention_heads", -1),
        ("bbox_cost", "x"),
        ("bbox_loss_coefficient", 10**300),
    ],
)
def test_values_with_which_a_network_does_not_work_are_refused(
    key: str, value: object, scenes: Path, tmp_path: Path
) -> None:
    model = tiny_detector(tmp_path / "detr", "detr")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=r"model\.name: |config\.json"):
        finetune.inspect("object-detection", data=str(scenes), model=str(model), method="full")


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_pretrained_weights_that_are_not_finite_are_refused(method: str, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "bert")
    tensors = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.bias"
    save_file(tensors | {name: tensors[name] * torch.nan}, model / "model.safetensors")
    with pytest.raises(ModelError, match="layer.1.output.dense.bias' contains NaN; copy it"):
        finetune.train(
            "text-classification",
            data=text_rows(24),
            model=str(model),
            method=method,
            max_steps=1,
            output=str(tmp_path / "run"),
        )


@pytest.mark.parametrize("rate", ["lr", "head_lr"])
def test_weights_that_overflow_in_the_last_step_are_not_saved(rate: str, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"no checkpoint is written|outputs .* are not finite"):
        finetune.train(
            "text-classification",
            data=text_rows(24),
            model=str(tiny_bert(tmp_path / "bert")),
            method="full",
            max_steps=1,
            precision="fp32",
            output=str(tmp_path / "run"),
            **{rate: 3e38},
        )
    assert not (tmp_path / "run/final").exists()


def test_pretrained_network_whose_weights_are_not_finite_does_not_embed(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "bert")
    tensors = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.bias"
    save_file(tensors | {name: tensors[name] * torch.nan}, model / "model.safetensors")
    with pytest.raises(ModelError, match="dense.bias' contains NaN; copy it"):
        finetune.embed(str(model), ["shares fell"])
