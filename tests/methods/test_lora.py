"""LoRA: what it trains and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.errors import ModelError
from finetune.methods.method_configs import LoraConfig
from tests.support.applied_methods import apply, bare, native, outputs, trained


def test_lora_trains_adapters_and_heads(folder: Path) -> None:
    model = native(folder)
    targets = model.lora_targets
    apply(model, LoraConfig())
    heads = tuple(f"{name}." for name in model.heads)
    adapters = {f"{name}.lora_{half}.default.weight" for name in targets for half in "AB"}
    assert {name for name in trained(model) if not name.startswith(heads)} == adapters
    assert {name for name in trained(model) if name.startswith(heads)} == {
        name for name, _ in model.network.named_parameters() if name.startswith(heads)
    }


def test_lora_leaves_initial_outputs_unchanged(folder: Path) -> None:
    model = native(folder)
    before = outputs(model)
    apply(model, LoraConfig())
    assert torch.equal(outputs(model), before)


def test_lora_targets_match_full_names_and_endings(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, LoraConfig(targets=["query", "bert.encoder.layer.0.output.dense"]))
    adapted = {name.partition(".lora_")[0] for name in trained(model) if ".lora_" in name}
    queries = {f"bert.encoder.layer.{layer}.attention.self.query" for layer in range(3)}
    assert adapted == queries | {"bert.encoder.layer.0.output.dense"}


def test_lora_suggests_the_nearest_layer_for_an_unknown_target(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"method.targets: 'querry' .*; did you mean 'query'"):
        apply(native(bert_folder), LoraConfig(targets=["querry"]))


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_applies_rank_alpha_and_dropout(bert_folder: Path, rslora: bool) -> None:
    model = native(bert_folder)
    apply(model, LoraConfig(rank=4, alpha=6, dropout=0.25, rslora=rslora))
    layer = model.network.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (4, 32)
    assert layer.scaling["default"] == (6 / 4**0.5 if rslora else 6 / 4)
    assert layer.lora_dropout["default"].p == 0.25


def test_lora_rejects_a_network_without_layers_to_adapt() -> None:
    with pytest.raises(ModelError, match=r"method=lora: .* no layers .*frozen, partial or full"):
        apply(bare(), LoraConfig())


@pytest.mark.parametrize("rank", [1000, 10**12])
def test_lora_refuses_a_rank_that_exceeds_its_layers(rank: int, bert_folder: Path) -> None:
    with pytest.raises(ModelError, match=f"method.rank={rank}: .*lower method.rank, or use method"):
        apply(native(bert_folder), LoraConfig(rank=rank))
