"""Promises that every method keeps."""

from __future__ import annotations

from pathlib import Path

from finetune.config.schema import ModelConfig
from finetune.methods.method_configs import (
    BitFitConfig,
    FrozenConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    PartialConfig,
)
from tasks.text.text_models import load_pooled
from tests.support.applied_methods import apply, inputs, native


def test_methods_give_every_trained_parameter_a_gradient(folder: Path) -> None:
    """DDP would wait forever for a missing one."""
    configs = (FullConfig(), LoraConfig(), Ia3Config(), FrozenConfig(), PartialConfig(blocks=1))
    for config in (*configs, BitFitConfig()):
        for model in (native(folder), load_pooled(ModelConfig(name=str(folder)), "mean", 3)):
            apply(model, config).train_mode(model)
            model({"inputs": inputs()}).square().sum().backward()
            missing = [
                n for n, p in model.network.named_parameters() if p.requires_grad and p.grad is None
            ]
            assert not missing, (config.name, missing)
