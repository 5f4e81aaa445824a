"""BitFit: biases, norms and the head."""

from __future__ import annotations

from pathlib import Path

from finetune.methods.method_configs import BitFitConfig
from tests.support.applied_methods import apply, names_of, native, trained


def test_bitfit_trains_1d_parameters_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, BitFitConfig())
    heads = names_of(model.heads, model)
    vectors = {name for name, p in model.network.named_parameters() if p.ndim == 1}
    assert trained(model) == heads | vectors
