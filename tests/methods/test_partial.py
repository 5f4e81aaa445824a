"""Partial fine-tuning and gradual unfreezing."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.schema import OptimConfig
from finetune.errors import ModelError
from finetune.methods.method_configs import PartialConfig
from finetune.model import TransferModel
from finetune.registry import make_method
from tests.support.applied_methods import apply, native, trained


def test_partial_trains_the_last_blocks_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, PartialConfig(blocks=2))
    last = tuple(f"{name}." for block in model.blocks[-2:] for name in block)
    heads = tuple(f"{name}." for name in model.heads)
    for name, parameter in model.network.named_parameters():
        assert parameter.requires_grad == name.startswith(last + heads), name


def test_partial_applies_dropout_only_in_trained_blocks(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, PartialConfig(blocks=1)).train_mode(model)
    layers = model.network.bert.encoder.layer
    assert [layer.training for layer in layers] == [False, False, True]
    assert not model.network.bert.embeddings.training


def test_partial_rejects_more_blocks_than_the_network_has(bert_folder: Path) -> None:
    model = native(bert_folder)
    count = len(model.blocks)
    words = rf"method.blocks=99: .* only {count} blocks; .*at most {count}"
    with pytest.raises(ModelError, match=words):
        apply(model, PartialConfig(blocks=99))


# ---- gradual unfreezing


def trained_blocks(model: TransferModel) -> int:
    """Count the trained blocks at the output."""
    names = trained(model)
    count = 0
    for block in reversed(model.blocks):
        if not any(name.startswith(tuple(block)) for name in names):
            break
        count += 1
    return count


def test_partial_unfreezes_blocks_one_by_one(folder: Path) -> None:
    model = native(folder)
    method = make_method(PartialConfig(blocks=3, unfreeze_every=0.5))
    method.apply(model)
    groups = method.param_groups(model, OptimConfig(lr=1.0, head_lr=1.0))
    optimized = {name for group in groups for name in group["names"]}
    assert trained_blocks(model) == 3  # the optimizer gets everything that will ever be trained
    stages = []
    for epoch in (0, 0.25, 0.5, 0.99, 1.0, 1.5, 4.0):
        changed = method.unfreeze(model, epoch)
        stages.append((changed, trained_blocks(model)))
        assert trained(model) <= optimized
    assert stages == [
        (True, 0),
        (False, 0),
        (True, 1),
        (False, 1),
        (True, 2),
        (True, 3),
        (False, 3),
    ]


def test_partial_unfreezing_depends_only_on_the_epoch(bert_folder: Path) -> None:
    config = PartialConfig(blocks=3, unfreeze_every=0.5)
    for epoch in (2.0, 1.0, 0.0, 0.6):
        fresh, model = make_method(config), native(bert_folder)
        fresh.apply(model)
        fresh.unfreeze(model, epoch)
        assert trained_blocks(model) == min(3, int(epoch / 0.5))


def test_partial_trains_all_blocks_at_once_by_default(bert_folder: Path) -> None:
    model = native(bert_folder)
    method = apply(model, PartialConfig(blocks=2))
    assert not method.unfreeze(model, 0.0)
    assert trained_blocks(model) == 2


@pytest.mark.parametrize("epoch_steps", [3, 7, 10, 49])
def test_partial_unfreezes_exactly_at_epoch_boundaries(bert_folder: Path, epoch_steps: int) -> None:
    model = native(bert_folder)
    method = make_method(PartialConfig(blocks=2, unfreeze_every=1))
    method.apply(model)
    changes = [s for s in range(4 * epoch_steps) if method.unfreeze(model, s / epoch_steps)]
    assert changes == [0, epoch_steps, 2 * epoch_steps]
