"""Weights sharded among two real gloo processes (FSDP2), compared with a run of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from finetune.distributed.launch import this_process
from finetune.errors import ConfigError
from finetune.registry import find_task, make_method
from finetune.training.setup import check_sharding
from tests.support.lives import Stop, live, load
from tests.support.tiny_models import models_and_data, tiny_gpt2
from tests.support.two_processes import Case, assert_same_end, difference, launch, run_case

STOPS = [Stop(1, rank=1), Stop(3, "saved"), Stop(4)]
# 32 rows in steps of 12, on two processes with micro-batches of 5: a last step needs a filler.
STEADY = {"data.limit": 40, "train.micro_batch": 5, "train.max_steps": 5, "optim.lr": 1e-3}
SHARD = {"train.shard": True}


def cases(keys: dict[str, dict[str, Any]], stops: list[Stop]) -> list[Case]:
    return [
        Case(name, {**STEADY, **SHARD, **case_keys}, stops, has_dropout=False)
        for name, case_keys in keys.items()
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models_and_data(tmp_path_factory.mktemp("sharding"))


def finals(folder: Path) -> dict[str, Tensor]:
    """Return the weights in final/, without those whose gradient is only rounding noise.

    Adam scales that noise to steps of full size.
    """
    tensors = {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if not name.endswith(("key.bias", "c_attn.bias"))
    }
    assert tensors
    return tensors


def assert_as_one_process(case: Case, two: Path, one: Path, models: dict[str, Path]) -> None:
    keys = {**case.keys, "train.shard": False}
    run_case(Case(case.name, keys, has_dropout=False), one, models["plain"], models["data"])
    gradients = [load_file(place / f"{case.name}.safetensors") for place in (one, two)]
    gradients = [{n: g for n, g in steps.items() if n.startswith("0/")} for steps in gradients]
    assert difference(*gradients) < 1e-6
    ends = [finals(place / case.name / "once" / "final") for place in (one, two)]
    assert difference(*ends) < 1e-5


def test_sharded_run_resumes_exactly_and_agrees_with_one_process(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    full = cases({"full": {"method": "full"}}, STOPS[1:2])
    lora = cases({"lora": {"method": "lora", "method.dropout": 0}}, [])
    two = launch([*full, *lora], tmp_path / "two", models)
    assert_same_end(two, full[0])
    for case in (*full, *lora):
        assert_as_one_process(case, two, tmp_path / "one", models)


@pytest.mark.slow
def test_sharded_methods_resume_exactly_and_agree_with_one_process(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    writing = {"name": "text-generation", "prompt": "{text}", "completion": " {label}"}
    keys: dict[str, dict[str, Any]] = {
        "full": {"method": "full"},
        "lora": {"method": "lora", "method.dropout": 0},
        "partial": {"method": "partial", "method.blocks": 2},
        "averaged": {"method": "full", "optim.ema": 0.5, "optim.l1_head": 0.01},
        "dora": {"method": "lora", "method.dropout": 0, "method.dora": True},
        "eva": {"method": "lora", "method.dropout": 0, "method.init": "eva"},
        "sgd": {"method": "full", "optim": "sgd", "model.activation_checkpointing": True},
        # Input and output embeddings are tied.
        "tied": {
            "method": "full",
            "task": writing,
            "model": str(tiny_gpt2(tmp_path / "gpt2", dropout=0)),
        },
    }
    chosen = cases(keys, STOPS)
    half = cases({"half": {"method": "full", "train.precision": "bf16"}}, STOPS)
    two = launch([*chosen, *half], tmp_path / "two", models)
    for case in (*chosen, *half):
        assert_same_end(two, case)
    for case in chosen:
        assert_as_one_process(case, two, tmp_path / "one", models)


@pytest.mark.slow
def test_sharded_run_can_be_extended_in_one_process(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    # best=last, since the shorter run has one more evaluation, at its end.
    keys = {"method": "full", "train.best": "last"}
    keys |= {"optim.schedule": "constant", "optim.warmup_ratio": 0}
    (case,) = cases({"moved": keys}, [])
    two = launch([case], tmp_path / "two", models) / case.name / "once"
    longer = {**case.keys, "train.max_steps": 7}
    moved = live(load(two, models["plain"], models["data"], longer), extend=True)
    alone = {**longer, "train.shard": False}
    whole = live(load(tmp_path / "whole", models["plain"], models["data"], alone))
    assert moved is not None
    assert whole is not None
    assert difference(finals(moved.final), finals(whole.final)) < 1e-5


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": "frozen"}, "method=frozen trains only a small head"),
        ({"method": "partial", "method.unfreeze_every": 1}, "unfreeze_every changes the trained w"),
        ({"optim": "lamb"}, "optim.name=lamb is not known.*use adamw or sgd"),
        ({"train.precision": "fp16"}, "precision=fp16 needs a loss scaler"),
        ({"model.quantize": "8bit"}, "quantize=8bit gives weights that cannot be sharded"),
        (
            {"task": "text-generation", "task.text": "text", "task.generate": True},
            "task.generate=true bypasses the module whose weights are sharded",
        ),
    ],
)
def test_check_sharding_rejects_unsupported_keys(
    keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = load(tmp_path, "model", tmp_path, {**SHARD, **keys}).config
    with pytest.raises(ConfigError, match=rf"train.shard: .*{words}.*leave train.shard out"):
        task = find_task(config.task.name)(config.task)
        check_sharding(config, task, make_method(config.method))


def test_this_process_rejects_a_launcher_that_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"leave --use_fsdp out.*set train.shard=true"):
        this_process()


def test_shard_is_ignored_with_one_process(models: dict[str, Path], tmp_path: Path) -> None:
    keys = {**STEADY, **SHARD, "method": "full", "train.max_steps": 1}
    assert live(load(tmp_path, models["plain"], models["data"], keys)) is not None
