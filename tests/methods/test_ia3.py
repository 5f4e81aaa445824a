"""(IA)3: vectors that rescale activations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.config.schema import OptimConfig
from finetune.errors import ModelError
from finetune.methods.method_configs import Ia3Config
from tests.support.applied_methods import apply, names_of, native, outputs, trained


def test_ia3_trains_one_vector_per_layer_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, Ia3Config())
    for name in trained(model) - names_of(model.heads, model):
        layer, _, rest = name.partition(".ia3_l.")
        assert rest == "default", name
        assert layer in model.lora_targets
    assert names_of(model.heads, model) <= trained(model)


def test_ia3_leaves_initial_outputs_unchanged(folder: Path) -> None:
    model = native(folder)
    before = outputs(model)
    apply(model, Ia3Config())
    assert torch.equal(outputs(model), before)


def test_ia3_rescales_the_default_layers_of_peft(bert_folder: Path) -> None:
    """l_k, l_v and l_ff of the paper, and attention.output, which peft matches by its ending."""
    model = native(bert_folder)
    apply(model, Ia3Config())
    shapes = {
        name.partition(".ia3_l.")[0]: tuple(p.shape)
        for name, p in model.network.named_parameters()
        if ".ia3_l." in name
    }
    layer = model.network.bert.encoder.layer[0]
    wide, narrow = layer.output.dense.in_features, layer.attention.self.key.out_features
    first = "bert.encoder.layer.0"
    assert {name: size for name, size in shapes.items() if name.startswith(first)} == {
        f"{first}.attention.self.key": (narrow, 1),
        f"{first}.attention.self.value": (narrow, 1),
        f"{first}.attention.output.dense": (1, narrow),
        f"{first}.output.dense": (1, wide),
    }


def test_ia3_rescales_the_configured_layers(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, Ia3Config(targets=["query", "output.dense"], feedforward=["output.dense"]))
    adapted = {name.partition(".ia3_l.")[0] for name in trained(model) if ".ia3_l." in name}
    assert {name.rpartition(".")[2] for name in adapted} == {"query", "dense"}
    with pytest.raises(ModelError, match=r"method.targets: 'quer' .*; did you mean 'query'"):
        apply(native(bert_folder), Ia3Config(targets=["quer"]))
    with pytest.raises(ModelError, match=r"method.feedforward: 'key'"):
        apply(native(bert_folder), Ia3Config(targets=["query"], feedforward=["key"]))


def test_ia3_excludes_its_vectors_from_weight_decay(bert_folder: Path) -> None:
    """They start at 1, so decay would switch layers off."""
    model = native(bert_folder)
    method = apply(model, Ia3Config())
    for group in method.param_groups(model, OptimConfig(lr=1.0, head_lr=1.0, weight_decay=0.1)):
        assert not (group["weight_decay"] and any(".ia3_l." in name for name in group["names"]))
