"""Full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from finetune.methods.method_configs import FullConfig
from tests.support.applied_methods import apply, native, trained


def test_full_trains_every_parameter(folder: Path) -> None:
    model = native(folder)
    apply(model, FullConfig())
    assert trained(model) == {name for name, _ in model.network.named_parameters()}
