"""Loading of model.weights into an architecture of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from tasks.image.preprocessing import INPUT
from tests.support.image_classifiers import random_images, set_up_classifier
from tests.support.tiny_vision import SHAPES


@pytest.mark.parametrize("match", ["name", "order"])
def test_load_weight_file_matches_tensors_by_name_or_order(
    match: str, vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    original = timm.create_model(f"local-dir:{vision_networks['resnet']}", pretrained=True)
    state = dict(original.state_dict())
    if match == "order":  # other names, another alphabetical order, no step counts
        tensors = [tensor for name, tensor in state.items() if "num_batches" not in name]
        state = {f"t{999 - index}": tensor for index, tensor in enumerate(tensors)}
        torch.save(state, tmp_path / "weights.pth")
    else:
        save_file(state, tmp_path / "weights.safetensors")
    path = next(tmp_path.glob("weights.*"))
    source = ModelConfig(name="timm/test_resnet", weights=str(path), match=match)
    _, model = set_up_classifier(source)
    with torch.inference_mode():
        pooled = model.features({INPUT: random_images()})["pooled"]
        maps = original.eval().forward_features(random_images())
        expected = original.forward_head(maps, pre_logits=True)
    torch.testing.assert_close(pooled, expected)
    assert model.network.fc.out_features == len(SHAPES)


def test_load_weight_file_reports_mismatched_weights(
    vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    original = timm.create_model(f"local-dir:{vision_networks['resnet']}", pretrained=True)
    state = original.state_dict()
    save_file({f"x.{name}": tensor for name, tensor in state.items()}, path)
    source = ModelConfig(name="timm/test_resnet", weights=str(path))
    with pytest.raises(ModelError, match=r"the names in .* try model.match=order"):
        set_up_classifier(source)
    save_file({name: tensor for name, tensor in state.items() if "layer1" not in name}, path)
    with pytest.raises(ModelError, match="tensors, the network"):
        set_up_classifier(source.model_copy(update={"match": "order"}))
    save_file({**state, "conv1.0.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"conv1.0.weight of shape \(3,\)"):
        set_up_classifier(source)


def test_load_weight_file_rejects_a_torch_file_with_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Payload()}, tmp_path / "weights.pth")
    source = ModelConfig(name="timm/test_resnet", weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ModelError, match="cannot be read"):
        set_up_classifier(source)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_load_weight_file_refuses_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    source = ModelConfig(name="timm/test_resnet", weights=str(tmp_path / "weights.pth"))
    with pytest.raises(
        ModelError, match="cannot be read: it is damaged, or no file of safetensors"
    ):
        set_up_classifier(source)
