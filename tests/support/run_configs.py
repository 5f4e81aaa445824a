"""Configs of runs that nothing trains, for tests of run folders."""

from __future__ import annotations

from typing import Any

from finetune.config.schema import ModelConfig, RunConfig, TaskConfig, TrainConfig
from finetune.methods.method_configs import LoraConfig

DIGESTS = {"train": "a", "validation": "b"}


def config(**keys: Any) -> RunConfig:
    """Return a config of a toy task; `keys` are sections."""
    train = TrainConfig(**{"epochs": 2, **keys.pop("train", {})})
    method = LoraConfig(**keys.pop("method", {}))
    model = ModelConfig(name=keys.pop("model", "bert"))
    return RunConfig(task=TaskConfig(name="toy"), model=model, method=method, train=train, **keys)
