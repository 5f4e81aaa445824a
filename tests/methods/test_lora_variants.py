"""Variants of LoRA: DoRA, rsLoRA, PiSSA, OLoRA, EVA and patterns, compared with plain peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.errors import ModelError
from finetune.export.final_model import relative_difference
from finetune.methods.method_configs import LoraConfig
from finetune.model import TransferModel
from tasks import ImageClassification
from tests.support.applied_methods import (
    apply,
    build,
    disturb,
    evaluate,
    inputs,
    native,
    outputs,
)
from tests.support.tiny_vision import shape_rows, tiny_timm

LINEAR = {
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "eva": {"init": "eva", "rslora": True},
    "patterns": {"rank_pattern": {"query": 4, "layer.1.attention.self.query": 2}},
    "all": {
        "dora": True,
        "rslora": True,
        "init": "pissa",
        "rank_pattern": {"key": 4},
        "alpha_pattern": {"key": 3, "query": 5},
    },
}
CONV1D = {
    name: {**LINEAR[name], "rank_pattern": {"c_attn": 4}}
    for name in ("dora", "rslora", "pissa", "eva")
}
CASES = [("bert", name) for name in LINEAR] + [("gpt2", name) for name in CONV1D]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_lora_variants_save_merge_and_reload_as_trained(
    network: str, name: str, bert_folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    folder = {"bert": bert_folder, "gpt2": gpt2_folder}[network]
    model, keys = native(folder), {"bert": LINEAR, "gpt2": CONV1D}[network][name]
    pretrained = outputs(model)
    method = apply(model, LoraConfig(**keys))
    assert relative_difference([pretrained], [outputs(model)]) < 1e-5  # unchanged at first
    disturb(model)
    before = outputs(model)
    assert relative_difference([pretrained], [before]) > 1e-2
    assert method.save_adapter(model, tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=3
    ).eval()
    with torch.inference_mode():
        assert relative_difference([before], [loaded(**inputs()).logits]) < 1e-5
    method.merge(model)
    assert relative_difference([before], [outputs(model)]) < 1e-5
    model.save(tmp_path / "final")
    reloaded = native(tmp_path / "final")
    assert relative_difference([before], [outputs(reloaded)]) < 1e-5


def test_lora_patterns_set_rank_and_scale_per_layer(bert_folder: Path) -> None:
    model = native(bert_folder)
    ranks = {"query": 4, "layer.1.attention.self.query": 2}
    apply(model, LoraConfig(rank_pattern=ranks, alpha_pattern={"key": 4}))
    layers: Any = [layer.attention.self for layer in model.network.bert.encoder.layer]
    assert [layer.query.r["default"] for layer in layers] == [4, 2, 4]
    assert [layer.query.scaling["default"] for layer in layers] == [16 / 4, 16 / 2, 16 / 4]
    assert [layer.key.scaling["default"] for layer in layers] == [4 / 8] * 3
    assert layers[0].value.r["default"] == 8


def test_eva_initializes_adapters_with_principal_components(bert_folder: Path) -> None:
    """Reference: torch's SVD of the layers' inputs in the pretrained network, without padding."""
    model, layer_inputs = native(bert_folder), dict[str, list[torch.Tensor]]()
    layers = {name: model.network.get_submodule(name) for name in model.lora_targets}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, values, name=name: layer_inputs.setdefault(name, []).append(values[0])
        )
        for name, layer in layers.items()
    ]
    batches = [inputs(seed) for seed in range(6)]
    for batch in batches:
        model.eval()({"inputs": batch})
    for hook in hooks:
        hook.remove()
    masks = [batch["attention_mask"].bool() for batch in batches]
    apply(model, LoraConfig(init="eva", rank=4))
    initial = {name: layer.lora_A["default"].weight for name, layer in lora_layers(model).items()}
    for name, directions in initial.items():
        vectors = torch.cat([v[mask] for v, mask in zip(layer_inputs[name], masks, strict=True)])
        vectors = vectors[: len(vectors) // 32 * 32] - vectors.mean(0)
        best = torch.linalg.svd(vectors, full_matrices=False).S[: len(directions)].norm()
        assert (vectors @ directions.T).norm() > 0.98 * best, name
        identity = directions @ directions.T
        assert torch.allclose(identity, torch.eye(len(directions)), atol=1e-4), name
    ranks = [len(directions) for directions in initial.values()]
    assert sum(ranks) == 4 * len(layers)
    assert max(ranks) <= 8
    assert len(set(ranks)) > 1
    assert {layer.scaling["default"] for layer in lora_layers(model).values()} == {16 / 4}
    again = native(bert_folder)
    apply(again, LoraConfig(init="eva", rank=4))
    for name, layer in lora_layers(again).items():
        assert torch.equal(layer.lora_A["default"].weight, initial[name])


def lora_layers(model: TransferModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {n: m for n, m in model.network.named_modules() if isinstance(m, LoraLayer)}


def test_dora_merges_into_convolutions(tmp_path: Path) -> None:
    rows = shape_rows(9)
    task, model = build(ImageClassification(), tiny_timm(tmp_path / "resnet"), rows)
    method = apply(model, LoraConfig(dora=True, rank=2))
    adapted = lora_layers(model).values()
    assert any(isinstance(layer.get_base_layer(), nn.Conv2d) for layer in adapted)
    disturb(model)
    batch = task.collate([task.encode(row) for row in rows])
    before = evaluate(model, batch)
    method.merge(model)
    assert relative_difference([before], [evaluate(model, batch)]) < 1e-5


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"rank_pattern": {"querry": 4}},
            r"method.rank_pattern: 'querry' matches no layer .*; did you mean",
        ),
        ({"alpha_pattern": {"none": 4}}, r"method.alpha_pattern: 'none' matches no layer"),
        ({"init": "pissa", "rank": 40, "targets": ["query"]}, r"32 singular values.*the rank 40"),
        ({"train_tokens": True}, r"method.train_tokens: .*task.add_tokens"),
    ],
)
def test_lora_rejects_keys_that_match_no_layer(
    keys: dict[str, Any], words: str, bert_folder: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        apply(native(bert_folder), LoraConfig(**keys))


def test_lora_rejects_variants_that_a_layer_does_not_support(
    bert_folder: Path, gpt2_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"method.init=olora: .*c_attn is a Conv1D"):
        apply(native(gpt2_folder), LoraConfig(init="olora"))
    for keys in ({"dora": True}, {"init": "pissa"}):
        model = native(bert_folder)
        query = model.network.bert.encoder.layer[0].attention.self.query
        query.weight = nn.Parameter(query.weight.to(torch.uint8), requires_grad=False)
        with pytest.raises(ModelError, match=r"query is quantized.*model.quantize"):
            apply(model, LoraConfig(**keys))
