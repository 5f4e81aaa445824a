"""Weights split among two real gloo processes (FSDP2): the run is that of one process, stopped or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.lives import Stop, one_thread
from tests.test_distributed import assert_same_end, difference, launch
from tests.tiny_models import text_csv, tiny_bert
from tests.two_processes import Case, run_case

STOPS = [Stop(1, rank=1), Stop(3, "saved"), Stop(4)]
# Of 32 rows in steps of 12 by two processes of 5 at once: one process has a filler on a last step.
STEADY = {"data.limit": 40, "train.micro_batch": 5, "train.max_steps": 5, "optim.lr": 1e-3}
SHARD = {"train.shard": True}


def cases(keys: dict[str, dict[str, Any]], stops: list[Stop]) -> list[Case]:
    return [
        Case(name, {**STEADY, **SHARD, **own}, stops, has_dropout=False)
        for name, own in keys.items()
    ]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sharding")
    return {
        "model": tiny_bert(folder / "bert"),
        "plain": tiny_bert(folder / "plain", dropout=0, spread=0.1),
        "data": text_csv(folder / "news.csv"),
    }


def finals(folder: Path) -> dict[str, Tensor]:
    """All weights of a final/, without those whose gradient is 0 but for rounding, of which Adam
    makes steps of full size.
    """
    found = {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if not name.endswith("key.bias")
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
    chosen = cases(
        {"full": {"method": "full"}, "lora": {"method": "lora", "method.dropout": 0}}, STOPS
    )
    two = launch(chosen, tmp_path / "two", models)
    for case in chosen:
        assert_same_end(two, case)
        assert_as_one_process(case, two, tmp_path / "one", models)
