"""Cached low-precision copies of frozen weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from finetune.distributed import precision
from finetune.distributed.precision import cast_once
from finetune.io.run_folder import RunFolder
from finetune.training import loop
from tasks.generation.language_models import LanguageModel
from tests.support.lives import left_behind, live, load
from tests.support.tiny_models import tiny_t5

WRITTEN = {
    "task": "text-generation",
    "task.prompt": "{text}",
    "task.completion": " {label}",
    "task.generate": True,
    "task.max_new_tokens": 3,
}
LORA = {"method": "lora", "method.dropout": 0.1}


@pytest.fixture(scope="module")
def folders(
    bert_folder: Path, gpt2_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    t5 = tiny_t5(tmp_path_factory.mktemp("t5"), spread=1.0)  # large weights magnify rounding
    return {"bert": bert_folder, "gpt2": gpt2_folder, "t5": t5}


@pytest.fixture
def gpt2(gpt2_folder: Path) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_pretrained(gpt2_folder))


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("bert", {"method": "partial", "method.blocks": 1, "method.unfreeze_every": 0.5}),
        ("bert", LORA | {"method.dora": True}),
        ("gpt2", WRITTEN | LORA),  # Conv1D layers, and an output layer with a tied weight
        # T5 reads the dtype of a weight, and would draw LoRA's dropout in it.
        ("t5", WRITTEN | LORA | {"method.dropout": 0}),
    ],
)
def test_cast_once_leaves_every_bit_of_a_run_unchanged(
    kind: str,
    keys: dict[str, Any],
    folders: Mapping[str, Path],
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(name: str) -> RunFolder:
        all_keys = {"train.precision": "bf16", "optim.ema": 0.5, **keys}
        folder = live(load(tmp_path / name, folders[kind], news_csv, all_keys))
        assert folder is not None
        return folder

    cached = trained("cached")
    for module in (loop, precision):
        monkeypatch.setattr(module, "cast_once", lambda *_: contextlib.nullcontext())
    assert left_behind(cached) == left_behind(trained("uncached"))


def test_cast_once_copies_only_frozen_weights_of_linear_layers(gpt2: LanguageModel) -> None:
    network: Any = gpt2.network
    block, embedding, output = network.transformer.h[0], network.transformer.wte, network.lm_head
    trained = block.mlp.c_fc.weight
    before = {name: tensor.clone() for name, tensor in gpt2.state_dict().items()}
    with cast_once(gpt2, "bf16", [trained]):
        assert block.attn.c_attn.weight.dtype == output.weight.dtype == torch.bfloat16
        assert block.mlp.c_fc.weight is trained
        # Autocast casts neither embeddings nor norms.
        assert embedding.weight.dtype == block.ln_1.weight.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in gpt2.parameters())
    assert isinstance(block.attn.c_attn.weight, nn.Parameter)
    assert output.weight is embedding.weight
    assert all(torch.equal(before[name], tensor) for name, tensor in gpt2.state_dict().items())


def test_cast_once_copies_nothing_in_fp32(gpt2: LanguageModel) -> None:
    network: Any = gpt2.network
    with cast_once(gpt2, "fp32"):
        assert network.lm_head.weight is network.transformer.wte.weight
