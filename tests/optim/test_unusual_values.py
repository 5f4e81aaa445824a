"""Unusual values of config keys are named as the likely cause of a divergence."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config.loading import load_config
from finetune.config.shipped import shipped_configs
from finetune.config.yaml import flatten
from finetune.optim.unusual_values import divergence_remedy, unusual_values
from finetune.registry import INSTALLED


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"method.alpha": 1e30}, "method.alpha=1e+30 (usual: at most 10000)"),
        ({"optim.weight_decay": 1e30}, "optim.weight_decay=1e+30 (usual: at most 10)"),
        ({"optim.max_grad_norm": 1e-30}, "optim.max_grad_norm=1e-30 (usual: at least 1e-06)"),
        ({"method.dropout": 0.999999}, "method.dropout=0.999999 (usual: at most 0.95)"),
        ({"optim.warmup_steps": 10**9}, "optim.warmup_steps=1e+09 (usual: fewer than the 6 steps"),
        ({"optim.lr": 1e30, "optim.l1_head": 1e9}, "optim.lr=1e+30 (usual: at most 1), optim.l1"),
    ],
)
def test_remedy_names_the_unusual_value(values: dict[str, Any], named: str) -> None:
    assert divergence_remedy(values, 6).startswith(f"Likely cause: {named}")


def test_remedy_without_an_unusual_value_is_a_lower_rate() -> None:
    values = {"optim.max_grad_norm": 0.0, "optim.lr": 1e-4, "train.precision": "bf16"}
    assert divergence_remedy(values, 6).startswith("Lower optim.lr and optim.head_lr")
    assert "fp32" in divergence_remedy(values, 6)
    assert "fp32" not in divergence_remedy({**values, "train.precision": "fp32"}, 6)


def test_shipped_configs_have_no_unusual_values() -> None:
    paths = [path for path in shipped_configs().values() if "search" not in path.stem]
    assert paths
    for path in paths:
        assert unusual_values(flatten(load_config(path, [], INSTALLED).config), 1000) == []
