"""LoRA in depth: each kind is saved, merged, reloaded by peft, and compared with the live network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.export.final_model import relative_difference
from finetune.methods.lora import LoraConfig
from finetune.model import TransferModel, saved_model
from tasks import ImageClassification, TextClassification, TextGeneration
from tests.methods.test_methods import apply, disturb, inputs, native, outputs, trained
from tests.support.contract import resolve
from tests.support.tiny_models import text_rows
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
def test_adapter_and_merged_network_are_the_live_one(
    network: str, name: str, bert_folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    folder = {"bert": bert_folder, "gpt2": gpt2_folder}[network]
    model, keys = native(folder), {"bert": LINEAR, "gpt2": CONV1D}[network][name]
    pretrained = outputs(model)
    method = apply(model, LoraConfig(**keys))
    assert relative_difference([pretrained], [outputs(model)]) < 1e-5  # it begins as it was
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


def test_patterns_set_rank_and_scale_of_their_layers(bert_folder: Path) -> None:
    model = native(bert_folder)
    ranks = {"query": 4, "layer.1.attention.self.query": 2}
    apply(model, LoraConfig(rank_pattern=ranks, alpha_pattern={"key": 4}))
    layers: Any = [layer.attention.self for layer in model.network.bert.encoder.layer]
    assert [layer.query.r["default"] for layer in layers] == [4, 2, 4]
    assert [layer.query.scaling["default"] for layer in layers] == [16 / 4, 16 / 2, 16 / 4]
    assert [layer.key.scaling["default"] for layer in layers] == [4 / 8] * 3
    assert layers[0].value.r["default"] == 8


def test_eva_begins_along_the_principal_inputs_of_each_layer(bert_folder: Path) -> None:
    """Against torch's SVD of what the layers of the pretrained network are given, without padding."""
    model, given = native(bert_folder), dict[str, list[torch.Tensor]]()
    layers = {name: model.network.get_submodule(name) for name in model.lora_targets}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, values, name=name: given.setdefault(name, []).append(values[0])
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
    known = {name: layer.lora_A["default"].weight for name, layer in found(model).items()}
    for name, directions in known.items():
        vectors = torch.cat([v[mask] for v, mask in zip(given[name], masks, strict=True)])
        vectors = vectors[: len(vectors) // 32 * 32] - vectors.mean(0)
        best = torch.linalg.svd(vectors, full_matrices=False).S[: len(directions)].norm()
        assert (vectors @ directions.T).norm() > 0.98 * best, name
        identity = directions @ directions.T
        assert torch.allclose(identity, torch.eye(len(directions)), atol=1e-4), name
    ranks = [len(directions) for directions in known.values()]
    assert sum(ranks) == 4 * len(layers)
    assert max(ranks) <= 8
    assert len(set(ranks)) > 1
    assert {layer.scaling["default"] for layer in found(model).values()} == {16 / 4}
    again = native(bert_folder)
    apply(again, LoraConfig(init="eva", rank=4))
    for name, layer in found(again).items():
        assert torch.equal(layer.lora_A["default"].weight, known[name])


def found(model: TransferModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {n: m for n, m in model.network.named_modules() if isinstance(m, LoraLayer)}


def test_dora_of_convolutions_is_merged(tmp_path: Path) -> None:
    rows = shape_rows(9)
    task, model = built(ImageClassification(), tiny_timm(tmp_path / "resnet"), rows)
    method = apply(model, LoraConfig(dora=True, rank=2))
    assert any(isinstance(m.get_base_layer(), nn.Conv2d) for m in adapted(model))
    disturb(model)
    batch = task.collate([task.encode(row) for row in rows])
    before = said(model, batch)
    method.merge(model)
    assert relative_difference([before], [said(model, batch)]) < 1e-5


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"rank_pattern": {"querry": 4}},
            r"method.rank_pattern: no layer .*'querry'; did you mean",
        ),
        ({"alpha_pattern": {"none": 4}}, r"method.alpha_pattern: no layer"),
        ({"init": "pissa", "rank": 40, "targets": ["query"]}, r"32 singular values.*the rank 40"),
        ({"train_tokens": True}, r"method.train_tokens: .*task.add_tokens"),
    ],
)
def test_keys_that_fit_no_layer_are_refused(
    keys: dict[str, Any], words: str, bert_folder: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        apply(native(bert_folder), LoraConfig(**keys))


def test_kinds_that_a_layer_cannot_have_are_refused(bert_folder: Path, gpt2_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"method.init=olora: .*c_attn is a Conv1D"):
        apply(native(gpt2_folder), LoraConfig(init="olora"))
    for keys in ({"dora": True}, {"init": "pissa"}):
        model = native(bert_folder)
        query = model.network.bert.encoder.layer[0].attention.self.query
        query.weight = nn.Parameter(query.weight.to(torch.uint8), requires_grad=False)
        with pytest.raises(ModelError, match=r"query is held in few bits.*model.quantize"):
            apply(model, LoraConfig(**keys))


# ---- embeddings of new tokens

WORD = "fibromyalgia"


def built(task: Any, folder: Path, rows: list[dict[str, Any]]) -> tuple[Any, TransferModel]:
    table, source = Dataset.from_list(rows), ModelConfig(name=str(folder))
    resolve(task, table[:100])
    task.setup(table, source, frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(source)


def adapted(model: TransferModel) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.network.modules() if isinstance(module, LoraLayer)]


def said(model: TransferModel, batch: Any) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        return model(batch)  # type: ignore[no-any-return]


def worded(count: int = 12) -> list[dict[str, Any]]:
    return [row | {"text": f"{row['text']} {WORD}"} for row in text_rows(count)]


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_embeddings_of_added_words_are_trained_saved_and_merged(
    head: str, gpt2_folder: Path, tmp_path: Path
) -> None:
    rows = worded()
    task, model = built(TextClassification(add_tokens=[WORD], head=head), gpt2_folder, rows)
    table = model.encoder.get_input_embeddings().weight.detach().clone()  # type: ignore[attr-defined]
    method = apply(model, LoraConfig(train_tokens=True))
    batch = task.collate([task.encode(row) for row in rows])
    method.train_mode(model)
    model(batch).square().sum().backward()
    named = dict(model.network.named_parameters())
    (delta,) = (n for n in trained(model) if n.endswith("trainable_tokens_delta.default"))
    assert named[delta].shape == (1, 32)
    assert named[delta].grad.abs().sum() > 0
    assert all(named[name].grad is not None for name in trained(model))
    disturb(model)
    before = said(model, batch)
    method.save_adapter(model, tmp_path / "adapter")
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(tensor.shape[0] < len(table) for tensor in held.values())  # no whole table
    if head == "native":
        assert relative_difference([before], [by_peft(tmp_path / "adapter", table, batch)]) < 1e-5
    method.merge(model)
    assert relative_difference([before], [said(model, batch)]) < 1e-5
    after = model.encoder.get_input_embeddings().weight  # type: ignore[attr-defined]
    assert torch.equal(after[:-1], table[:-1])
    assert not torch.equal(after[-1], table[-1])
    (tmp_path / "final").mkdir()
    task.save(model, tmp_path / "final")
    assert (
        relative_difference(
            [before], [said(task.load_model(saved_model(tmp_path / "final")), batch)]
        )
        < 1e-5
    )


def by_peft(adapter: Path, table: torch.Tensor, batch: Any) -> torch.Tensor:
    """What plain peft says with the pretrained network, once that has a row for each token."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification

    base = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=1)
    network.resize_token_embeddings(len(table), mean_resizing=False)
    loaded = PeftModel.from_pretrained(network, str(adapter)).eval()
    with torch.inference_mode():
        return loaded(**batch["inputs"]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_new_tokens_of_a_language_model_are_trained_where_it_reads_and_writes(
    network: str, gpt2_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = {"gpt2": gpt2_folder, "llama": llama_folder}[network]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<turn>"])
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "base")
    keys = {"prompt": "{text} <turn>", "completion": " {label}<turn>", "max_length": 128}
    rows = text_rows(6)
    task, model = built(TextGeneration(**keys), tmp_path / "base", rows)
    method = apply(model, LoraConfig(train_tokens=True))
    tables = [n for n in trained(model) if n.endswith("trainable_tokens_delta.default")]
    assert len(tables) == (1 if network == "gpt2" else 2)  # that of GPT-2 is one and the same
    disturb(model)
    batch = task.collate([task.encode(row) for row in rows])
    before = said(model, batch)
    method.merge(model)
    assert relative_difference([before], [said(model, batch)]) < 1e-5
    (tmp_path / "final").mkdir()
    task.save(model, tmp_path / "final")
    assert (
        relative_difference(
            [before], [said(task.load_model(saved_model(tmp_path / "final")), batch)]
        )
        < 1e-5
    )
