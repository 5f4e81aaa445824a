"""Weights split among two real gloo processes (FSDP2): the run is that of one process, stopped or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from finetune.distributed.fsdp import check_sharding
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError
from finetune.registry import make_method
from tests.support.lives import Stop, live, load
from tests.support.tiny_models import models_and_data, tiny_gpt2
from tests.support.two_processes import Case, assert_same_end, difference, launch, run_case

STOPS = [Stop(1, rank=1), Stop(3, "saved"), Stop(4)]
# Of 32 rows in steps of 12 by two processes of 5 at once: one process has a filler on a last step.
STEADY = {"data.limit": 40, "train.micro_batch": 5, "train.max_steps": 5, "optim.lr": 1e-3}
SHARD = {"train.shard": True}


def cases(keys: dict[str, dict[str, Any]], stops: list[Stop]) -> list[Case]:
    return [
        Case(name, {**STEADY, **SHARD, **own}, stops, has_dropout=False)
        for name, own in keys.items()
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models_and_data(tmp_path_factory.mktemp("sharding"))


def finals(folder: Path) -> dict[str, Tensor]:
    """All weights of a final/, without those whose gradient is 0 but for rounding, of which Adam
    makes steps of full size.
    """
    found = {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if not name.endswith(("key.bias", "c_attn.bias"))
    }
    assert found
    return found


def assert_as_one_process(case: Case, two: Path, one: Path, models: dict[str, Path]) -> None:
    keys = {**case.keys, "train.shard": False}
    run_case(Case(case.name, keys, has_dropout=False), one, models["plain"], models["data"])
    gradients = [load_file(place / f"{case.name}.safetensors") for place in (one, two)]
    gradients = [{n: g for n, g in found.items() if n.startswith("0/")} for found in gradients]
    assert difference(*gradients) < 1e-6
    ends = [finals(place / case.name / "once" / "final") for place in (one, two)]
    assert difference(*ends) < 1e-5


def test_sharded_run_goes_on_and_ends_as_one_process_does(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    full = cases({"full": {"method": "full"}}, STOPS[1:2])
    lora = cases({"lora": {"method": "lora", "method.dropout": 0}}, [])
    two = launch([*full, *lora], tmp_path / "two", models)
    assert_same_end(two, full[0])
    for case in (*full, *lora):
        assert_as_one_process(case, two, tmp_path / "one", models)


@pytest.mark.slow
def test_all_that_sharding_serves_goes_on_and_ends_as_one_process_does(
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
        # One table of embeddings reads and writes.
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
def test_run_of_two_processes_goes_on_in_one(tmp_path: Path, models: dict[str, Path]) -> None:
    # The shorter run is evaluated once more, at its end.
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
        ({"method": "frozen"}, "method=frozen trains a small head alone"),
        ({"method": "partial", "method.unfreeze_every": 1}, "unfreeze_every trains other weights"),
        ({"optim": "lamb"}, "optim.name=lamb is not known.*use adamw or sgd"),
        ({"train.precision": "fp16"}, "precision=fp16 has a loss scaler"),
        ({"model.quantize": "8bit"}, "quantize=8bit holds weights that cannot be split"),
        (
            {"task": "text-generation", "task.text": "text", "task.generate": True},
            "task.generate=true passes by the module whose weights are split",
        ),
    ],
)
def test_keys_that_sharding_does_not_serve_are_refused(
    keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = load(tmp_path, "model", tmp_path, {**SHARD, **keys}).config
    with pytest.raises(ConfigError, match=rf"train.shard: .*{words}.*leave train.shard out"):
        method = make_method(config.method)
        check_sharding(config, config.train.precision or "fp32", method.sharding_fault)


def test_launch_that_shards_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"leave --use_fsdp out.*set train.shard=true"):
        this_process()


def test_one_process_has_all_weights(models: dict[str, Path], tmp_path: Path) -> None:
    keys = {**STEADY, **SHARD, "method": "full", "train.max_steps": 1}
    assert live(load(tmp_path, models["plain"], models["data"], keys)) is not None
