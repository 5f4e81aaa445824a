"""Frozen weights are cast once for many passes, and nothing else tells."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from finetune.distributed.precision import cast_once
from finetune.inference import evaluation_loop
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
    t5 = tiny_t5(tmp_path_factory.mktemp("t5"), spread=1.0)  # larger weights magnify any rounding
    return {"bert": bert_folder, "gpt2": gpt2_folder, "t5": t5}


@pytest.fixture
def gpt2(gpt2_folder: Path) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_pretrained(gpt2_folder))


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("bert", {"method": "partial", "method.blocks": 1, "method.unfreeze_every": 0.5}),
        ("bert", LORA | {"method.dora": True}),
        ("gpt2", WRITTEN | LORA),  # its layers are Conv1D, and its output layer shares a weight
        # It reads the type of a weight, and would draw LoRA's dropout in it.
        ("t5", WRITTEN | LORA | {"method.dropout": 0}),
    ],
)
def test_a_run_is_the_same_to_the_last_bit_as_one_that_casts_at_every_use(
    kind: str,
    keys: dict[str, Any],
    folders: Mapping[str, Path],
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(name: str) -> RunFolder:
        keys_ = {"train.precision": "bf16", "optim.ema": 0.5, **keys}
        folder = live(load(tmp_path / name, folders[kind], news_csv, keys_))
        assert folder is not None
        return folder

    once = trained("once")
    for module in (loop, evaluation_loop):
        monkeypatch.setattr(module, "cast_once", lambda *_: contextlib.nullcontext())
    assert left_behind(once) == left_behind(trained("always"))


def test_copies_are_narrow_and_only_of_what_is_not_trained(gpt2: LanguageModel) -> None:
    network: Any = gpt2.network
    block, embedding, output = network.transformer.h[0], network.transformer.wte, network.lm_head
    learned = block.mlp.c_fc.weight
    before = {name: tensor.clone() for name, tensor in gpt2.state_dict().items()}
    with cast_once(gpt2, "bf16", [learned]):
        assert block.attn.c_attn.weight.dtype == output.weight.dtype == torch.bfloat16
        assert block.mlp.c_fc.weight is learned
        # What looks words up, or scales, is no operand of a product that autocast narrows.
        assert embedding.weight.dtype == block.ln_1.weight.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in gpt2.parameters())
    assert isinstance(block.attn.c_attn.weight, nn.Parameter)
    assert output.weight is embedding.weight
    assert all(torch.equal(before[name], tensor) for name, tensor in gpt2.state_dict().items())


def test_in_float32_nothing_is_copied(gpt2: LanguageModel) -> None:
    network: Any = gpt2.network
    with cast_once(gpt2, "fp32"):
        assert network.lm_head.weight is network.transformer.wte.weight
