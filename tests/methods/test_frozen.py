"""Feature extraction: a head on the frozen backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.methods.method_configs import FrozenConfig
from tasks.text.text_models import load_pooled
from tests.support.applied_methods import apply, bare, inputs, native, trained


def test_frozen_trains_only_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, FrozenConfig())
    assert trained(model)
    assert all(name.startswith(tuple(model.heads)) for name in trained(model))


def test_frozen_keeps_the_backbone_in_evaluation_mode(folder: Path) -> None:
    """Dropout outside of all blocks must be off, too."""
    model = load_pooled(ModelConfig(name=str(folder)), "mean", 3)
    apply(model, FrozenConfig()).train_mode(model)
    batch = {"inputs": inputs()}
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
    assert model.network.head.training


def test_frozen_rejects_a_network_without_a_head() -> None:
    with pytest.raises(ModelError, match=r"method=frozen: .*use method=lora, partial or full"):
        apply(bare(), FrozenConfig())


def test_frozen_exact_solver_requires_cached_features(bert_folder: Path) -> None:
    pooled = load_pooled(ModelConfig(name=str(bert_folder)), "mean", 3)
    with pytest.raises(ModelError, match=r"method.solver=exact.*method.cache=auto"):
        apply(pooled, FrozenConfig(cache="off", solver="exact"))
