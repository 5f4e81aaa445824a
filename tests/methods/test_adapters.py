"""Adapters of LoRA and (IA)3: merging, saving and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.io.checkpoint import changed_tensors
from finetune.methods.method_configs import (
    BitFitConfig,
    FrozenConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    PartialConfig,
)
from tests.support.applied_methods import apply, disturb, inputs, native, outputs, trained


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_merge_reproduces_the_adapted_network(folder: Path, config: Any) -> None:
    model = native(folder)
    plain = {name for name, _ in model.network.named_parameters()}
    kinds = {name: type(module) for name, module in model.network.named_modules()}
    method = apply(model, config)
    disturb(model)
    before = outputs(model)
    method.merge(model)
    difference = (outputs(model) - before).abs().max() / before.abs().max()
    assert difference < 1e-5
    assert {name for name, _ in model.network.named_parameters()} == plain
    assert {name: type(module) for name, module in model.network.named_modules()} == kinds
    assert not hasattr(model.network, "peft_config")


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_save_adapter_writes_an_adapter_that_peft_loads(
    folder: Path, config: Any, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    model = native(folder)
    method = apply(model, config)
    disturb(model)
    before = outputs(model)
    assert method.save_adapter(model, tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=3
    )
    loaded.eval()
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs()).logits, before)


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_changed_tensors_hold_only_trained_parameters(bert_folder: Path, config: Any) -> None:
    model = native(bert_folder)
    apply(model, config)
    tensors = changed_tensors(model.network, trained(model))
    parameters = {name for name, _ in model.network.named_parameters()}
    assert tensors.keys() & parameters == trained(model)


def test_save_adapter_writes_nothing_for_methods_without_adapters(
    bert_folder: Path, tmp_path: Path
) -> None:
    for config in (FullConfig(), FrozenConfig(), PartialConfig(), BitFitConfig()):
        model = native(bert_folder)
        assert not apply(model, config).save_adapter(model, tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()
