"""Compiled blocks: the same network, for as long as it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.config.schema import ModelConfig, RunConfig, TrainConfig
from finetune.distributed.compilation import compiled_blocks
from finetune.errors import ConfigError
from finetune.methods.lora import Lora
from finetune.methods.method_configs import LoraConfig
from finetune.training.recipes import fill_defaults
from tasks import TextGeneration
from tests.support.text_generators import ANSWERED, set_up


def test_blocks_are_compiled_only_while_entered(gpt2_folder: Path) -> None:
    _, model, _ = set_up(gpt2_folder, ANSWERED)
    names = list(model.state_dict())
    blocks = list(model.network.transformer.h)  # type: ignore[union-attr, arg-type]
    with compiled_blocks(model, wanted=True):
        assert all(block._compiled_call_impl for block in blocks)
        assert list(model.state_dict()) == names
    assert not any(block._compiled_call_impl for block in blocks)
    with compiled_blocks(model, wanted=False):
        assert not any(block._compiled_call_impl for block in blocks)


@pytest.mark.slow
def test_compiled_blocks_change_outputs_and_gradients_by_rounding_only(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED)
    batches = [
        task.collate([task.encode(row) for row in rows]) for rows in (ANSWERED, ANSWERED[:2])
    ]

    def compute() -> list[torch.Tensor]:
        values = []
        for batch in batches:  # of different shapes
            loss = task.loss(model(batch), batch)["loss"]
            loss.backward()
            values += [loss.detach(), *(part.grad.clone() for part in model.parameters())]  # type: ignore[union-attr]
            model.zero_grad()
        return values

    expected = compute()
    with compiled_blocks(model, wanted=True):
        compiled = compute()
    for one, other in zip(compiled, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max() + 1e-7


def test_masks_by_sample_are_not_compiled(gpt2_folder: Path) -> None:
    _, model, _ = set_up(gpt2_folder, ANSWERED, packing=False)
    source, method = ModelConfig(name=str(gpt2_folder)), LoraConfig()
    train = TrainConfig(compile=True, dropout="by-sample", precision="bf16")
    config = RunConfig(task=TextGeneration.Config(), model=source, method=method, train=train)
    with pytest.raises(ConfigError, match="masks cannot be compiled"):
        fill_defaults(config, Lora(method), model, torch.device("cuda"))


def test_key_has_no_effect_on_a_cpu_and_says_so(
    gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys: dict[str, Any] = {"model": str(gpt2_folder), "max_steps": 1, "output": str(tmp_path)}
    data = {"train": ANSWERED}
    finetune.train("text-generation", data=data, validation=0, compile=True, **keys)
    assert "compile: no effect on a CPU" in capsys.readouterr().out
