"""What each method trains, freezes, refuses, saves apart and folds in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig, OptimConfig
from finetune.errors import ModelError
from finetune.io.checkpoint import changed_tensors
from finetune.methods.bitfit import BitFitConfig
from finetune.methods.frozen import FrozenConfig
from finetune.methods.full import FullConfig
from finetune.methods.ia3 import Ia3Config
from finetune.methods.lora import LoraConfig
from finetune.methods.partial import PartialConfig
from finetune.model import TransferModel
from finetune.registry import make_method
from tasks.text.text_models import TextModel, load_native, load_pooled


@pytest.fixture(params=["bert", "gpt2"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, gpt2_folder: Path) -> Path:
    return {"bert": bert_folder, "gpt2": gpt2_folder}[request.param]


def native(folder: Path) -> TextModel:
    torch.manual_seed(0)
    return load_native(ModelConfig(name=str(folder)), num_labels=3)


def apply(model: TransferModel, config: Any) -> Any:
    method = make_method(config)
    if method.reads_batches:
        method.observe(model, [{"inputs": inputs(seed)} for seed in range(6)])
    method.apply(model)
    return method


def trained(model: TransferModel) -> set[str]:
    return {name for name, p in model.network.named_parameters() if p.requires_grad}


def inputs(seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(5, 30, (4, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(model: TransferModel) -> Tensor:
    model.eval()
    with torch.inference_mode():
        return model({"inputs": inputs()})


# ---- what is trained


def test_full_trains_everything(folder: Path) -> None:
    model = native(folder)
    apply(model, FullConfig())
    assert trained(model) == {name for name, _ in model.network.named_parameters()}


def test_frozen_trains_the_heads_alone(folder: Path) -> None:
    model = native(folder)
    apply(model, FrozenConfig())
    assert trained(model)
    assert all(name.startswith(tuple(model.heads)) for name in trained(model))


def test_partial_trains_the_last_blocks_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, PartialConfig(blocks=2))
    last = tuple(f"{name}." for block in model.blocks[-2:] for name in block)
    heads = tuple(f"{name}." for name in model.heads)
    for name, parameter in model.network.named_parameters():
        assert parameter.requires_grad == name.startswith(last + heads), name


def names_of(parts: Iterable[str], model: TransferModel) -> set[str]:
    """The parameters of some parts of a network."""
    prefixes = tuple(f"{part}." for part in parts)
    return {name for name, _ in model.network.named_parameters() if name.startswith(prefixes)}


def test_lora_trains_adapters_and_heads(folder: Path) -> None:
    model = native(folder)
    targets = model.lora_targets
    apply(model, LoraConfig())
    heads = tuple(f"{name}." for name in model.heads)
    adapters = {f"{name}.lora_{half}.default.weight" for name in targets for half in "AB"}
    assert {name for name in trained(model) if not name.startswith(heads)} == adapters
    assert {name for name in trained(model) if name.startswith(heads)} == {
        name for name, _ in model.network.named_parameters() if name.startswith(heads)
    }


def test_ia3_trains_one_vector_a_layer_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, Ia3Config())
    for name in trained(model) - names_of(model.heads, model):
        layer, _, rest = name.partition(".ia3_l.")
        assert rest == "default", name
        assert layer in model.lora_targets
    assert names_of(model.heads, model) <= trained(model)


def test_bitfit_trains_vectors_and_the_heads(folder: Path) -> None:
    model = native(folder)
    apply(model, BitFitConfig())
    heads = names_of(model.heads, model)
    vectors = {name for name, p in model.network.named_parameters() if p.ndim == 1}
    assert trained(model) == heads | vectors


def test_every_trained_parameter_gets_a_gradient(folder: Path) -> None:
    """DDP waits for ever for one that does not."""
    configs = (FullConfig(), LoraConfig(), Ia3Config(), FrozenConfig(), PartialConfig(blocks=1))
    for config in (*configs, BitFitConfig()):
        for model in (native(folder), load_pooled(ModelConfig(name=str(folder)), "mean", 3)):
            apply(model, config).train_mode(model)
            model({"inputs": inputs()}).square().sum().backward()
            missing = [
                n for n, p in model.network.named_parameters() if p.requires_grad and p.grad is None
            ]
            assert not missing, (config.name, missing)


# ---- modes


def test_frozen_network_is_in_evaluation_mode(folder: Path) -> None:
    """Dropout that stands in no block must not move the features either."""
    model = load_pooled(ModelConfig(name=str(folder)), "mean", 3)
    apply(model, FrozenConfig()).train_mode(model)
    batch = {"inputs": inputs()}
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
    assert model.network.head.training


def test_partial_drops_out_only_in_trained_blocks(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, PartialConfig(blocks=1)).train_mode(model)
    layers = model.network.bert.encoder.layer
    assert [layer.training for layer in layers] == [False, False, True]
    assert not model.network.bert.embeddings.training


# ---- refusals


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, groups=3)


def bare() -> TransferModel:
    return TransferModel(Bare(), heads=[], blocks=[["conv"]])


def test_frozen_without_a_head_names_what_fits() -> None:
    with pytest.raises(ModelError, match=r"method=frozen .*use method=lora, partial or full"):
        apply(bare(), FrozenConfig())


def test_lora_without_layers_names_what_fits() -> None:
    with pytest.raises(ModelError, match=r"method=lora finds no layer.*frozen, partial or full"):
        apply(bare(), LoraConfig())


def test_more_blocks_than_there_are_are_refused(bert_folder: Path) -> None:
    model = native(bert_folder)
    there = len(model.blocks)
    with pytest.raises(ModelError, match=rf"method.blocks: 99 .*has {there}; .*at most {there}"):
        apply(model, PartialConfig(blocks=99))


def test_exact_solver_needs_cached_features(bert_folder: Path) -> None:
    pooled = load_pooled(ModelConfig(name=str(bert_folder)), "mean", 3)
    with pytest.raises(ModelError, match=r"method.solver=exact.*method.cache=auto"):
        apply(pooled, FrozenConfig(cache="off", solver="exact"))


# ---- LoRA


def test_lora_targets_are_names_or_their_endings(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, LoraConfig(targets=["query", "bert.encoder.layer.0.output.dense"]))
    adapted = {name.partition(".lora_")[0] for name in trained(model) if ".lora_" in name}
    queries = {f"bert.encoder.layer.{layer}.attention.self.query" for layer in range(3)}
    assert adapted == queries | {"bert.encoder.layer.0.output.dense"}


def test_unknown_lora_target_is_answered_with_the_nearest(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"method.targets: .*'querry'; did you mean 'query'"):
        apply(native(bert_folder), LoraConfig(targets=["querry"]))


def test_lora_begins_at_the_pretrained_network(folder: Path) -> None:
    model = native(folder)
    before = outputs(model)
    apply(model, LoraConfig())
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("rslora", [False, True])
def test_rank_alpha_and_scaling_are_taken(bert_folder: Path, rslora: bool) -> None:
    model = native(bert_folder)
    apply(model, LoraConfig(rank=4, alpha=6, dropout=0.25, rslora=rslora))
    layer = model.network.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (4, 32)
    assert layer.scaling["default"] == (6 / 4**0.5 if rslora else 6 / 4)
    assert layer.lora_dropout["default"].p == 0.25


def disturb(model: TransferModel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
            assert parameter.requires_grad or not re.search(r"\.(lora|ia3)_", name)


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_merged_network_equals_the_adapted_one(folder: Path, config: Any) -> None:
    model = native(folder)
    plain = {name for name, _ in model.network.named_parameters()}
    kinds = {name: type(module) for name, module in model.network.named_modules()}
    method = apply(model, config)
    disturb(model)
    before = outputs(model)
    method.merge(model)
    difference = (outputs(model) - before).abs().max() / before.abs().max()
    assert difference < 1e-5
    assert {name for name, _ in model.network.named_parameters()} == plain
    assert {name: type(module) for name, module in model.network.named_modules()} == kinds
    assert not hasattr(model.network, "peft_config")


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_adapter_alone_loads_with_peft(folder: Path, config: Any, tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    model = native(folder)
    method = apply(model, config)
    disturb(model)
    before = outputs(model)
    assert method.save_adapter(model, tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=3
    )
    loaded.eval()
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs()).logits, before)


@pytest.mark.parametrize("config", [LoraConfig(), Ia3Config()], ids=["lora", "ia3"])
def test_checkpoint_of_adapters_holds_what_is_trained_alone(bert_folder: Path, config: Any) -> None:
    model = native(bert_folder)
    apply(model, config)
    held = changed_tensors(model.network, trained(model))
    parameters = {name for name, _ in model.network.named_parameters()}
    assert held.keys() & parameters == trained(model)


def test_methods_without_adapters_save_none(bert_folder: Path, tmp_path: Path) -> None:
    for config in (FullConfig(), FrozenConfig(), PartialConfig(), BitFitConfig()):
        model = native(bert_folder)
        assert not apply(model, config).save_adapter(model, tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()


# ---- (IA)3


def test_ia3_begins_at_the_pretrained_network(folder: Path) -> None:
    model = native(folder)
    before = outputs(model)
    apply(model, Ia3Config())
    assert torch.equal(outputs(model), before)


def test_ia3_rescales_the_layers_that_peft_names_for_a_bert(bert_folder: Path) -> None:
    """The paper's l_k, l_v and l_ff; by its ending, peft also takes the output of attention."""
    model = native(bert_folder)
    apply(model, Ia3Config())
    shapes = {
        name.partition(".ia3_l.")[0]: tuple(p.shape)
        for name, p in model.network.named_parameters()
        if ".ia3_l." in name
    }
    layer = model.network.bert.encoder.layer[0]
    wide, narrow = layer.output.dense.in_features, layer.attention.self.key.out_features
    own = "bert.encoder.layer.0"
    assert {name: size for name, size in shapes.items() if name.startswith(own)} == {
        f"{own}.attention.self.key": (narrow, 1),
        f"{own}.attention.self.value": (narrow, 1),
        f"{own}.attention.output.dense": (1, narrow),
        f"{own}.output.dense": (1, wide),
    }


def test_ia3_takes_the_layers_that_are_named(bert_folder: Path) -> None:
    model = native(bert_folder)
    apply(model, Ia3Config(targets=["query", "output.dense"], feedforward=["output.dense"]))
    adapted = {name.partition(".ia3_l.")[0] for name in trained(model) if ".ia3_l." in name}
    assert {name.rpartition(".")[2] for name in adapted} == {"query", "dense"}
    with pytest.raises(ModelError, match=r"method.targets: .*'quer'; did you mean 'query'"):
        apply(native(bert_folder), Ia3Config(targets=["quer"]))
    with pytest.raises(ModelError, match=r"method.feedforward: .*'key'"):
        apply(native(bert_folder), Ia3Config(targets=["query"], feedforward=["key"]))


def test_decay_leaves_ia3_vectors_alone(bert_folder: Path) -> None:
    """They start at 1: decay would switch layers off."""
    model = native(bert_folder)
    method = apply(model, Ia3Config())
    for group in method.param_groups(model, OptimConfig(lr=1.0, head_lr=1.0, weight_decay=0.1)):
        assert not (group["weight_decay"] and any(".ia3_l." in name for name in group["names"]))


# ---- gradual unfreezing


def trained_blocks(model: TransferModel) -> int:
    names = trained(model)
    count = 0
    for block in reversed(model.blocks):
        if not any(name.startswith(tuple(block)) for name in names):
            break
        count += 1
    return count


def test_blocks_are_unfrozen_one_by_one(folder: Path) -> None:
    model = native(folder)
    method = make_method(PartialConfig(blocks=3, unfreeze_every=0.5))
    method.apply(model)
    groups = method.param_groups(model, OptimConfig(lr=1.0, head_lr=1.0))
    held = {name for group in groups for name in group["names"]}
    assert trained_blocks(model) == 3  # the optimizer holds what will ever be trained
    found = []
    for epoch in (0, 0.25, 0.5, 0.99, 1.0, 1.5, 4.0):
        changed = method.unfreeze(model, epoch)
        found.append((changed, trained_blocks(model)))
        assert trained(model) <= held
    assert found == [
        (True, 0),
        (False, 0),
        (True, 1),
        (False, 1),
        (True, 2),
        (True, 3),
        (False, 3),
    ]


def test_unfreezing_is_a_function_of_the_epoch_alone(bert_folder: Path) -> None:
    config = PartialConfig(blocks=3, unfreeze_every=0.5)
    for epoch in (2.0, 1.0, 0.0, 0.6):
        fresh, model = make_method(config), native(bert_folder)
        fresh.apply(model)
        fresh.unfreeze(model, epoch)
        assert trained_blocks(model) == min(3, int(epoch / 0.5))


def test_without_a_schedule_all_blocks_are_trained_at_once(bert_folder: Path) -> None:
    model = native(bert_folder)
    method = apply(model, PartialConfig(blocks=2))
    assert not method.unfreeze(model, 0.0)
    assert trained_blocks(model) == 2


@pytest.mark.parametrize("epoch_steps", [3, 7, 10, 49])
def test_stage_changes_on_the_step_that_ends_its_epoch(bert_folder: Path, epoch_steps: int) -> None:
    model = native(bert_folder)
    method = make_method(PartialConfig(blocks=2, unfreeze_every=1))
    method.apply(model)
    changes = [s for s in range(4 * epoch_steps) if method.unfreeze(model, s / epoch_steps)]
    assert changes == [0, epoch_steps, 2 * epoch_steps]
