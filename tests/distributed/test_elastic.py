"""A run goes on with another number of processes: the same samples in every step, equal weights.

In float32, products of matrices are rounded differently when micro-batches have other rows. That
moves weights by about 3e-8 of the largest, but for the biases of attention keys: softmax is
indifferent to them, so their gradients are zero but for rounding, which Adam scales to full steps.
They differ by 1e-5 on some processors. In float64 all weights must agree a hundred million times
better: a loss that was scaled or divided wrongly would differ there by as much as in float32.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.io.run_folder import RunFolder
from tests.support.command_line import launch
from tests.support.tiny_models import models_and_data
from tests.support.two_processes import difference

# One life of the run; each process writes which rows it trained on, by step.
LIFE = """
import json, sys
from pathlib import Path
from finetune.distributed.launch import this_process
from tests.support.lives import Seen, Stop, in_float64, live, load

rank, seen = this_process().process_index, Seen()
folder, model, data, keys, life, stop, dtype = sys.argv[1:]
if dtype == "float64":
    in_float64()
loaded = load(Path(folder), Path(model), Path(data), json.loads(keys))
live(loaded, seen=seen, stop=Stop(int(stop)) if stop else None)
rows = {step: [row for rows, _ in batches for row in rows] for step, batches in seen.steps.items()}
Path(f"{folder}-{life}-{rank}.json").write_text(json.dumps(rows))
"""
# (processes, the step during which a signal ends the life; "": the end)
LIVES = [(2, "3"), (1, "6"), (2, "")]
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    # The first gradients of an adapter are tiny; in another order, Adam magnifies more rounding.
    "lora": {"method": "lora", "method.dropout": 0, "optim.ema": 0.5, "train.batching": "length"},
    "frozen": {"method": "frozen"},
    # Adam divides by the size of a gradient, which turns the rounding of a tiny one into a step.
    "partial": {"method": "partial", "method.unfreeze_every": 0.5, "optim": "sgd", "lr": 0.05},
    "micro": {"method": "full", "train.micro_batch": 2},
}
WITHOUT_GRADIENT = ".key.bias"
"""Ending of the names of weights whose gradients are zero but for rounding."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models_and_data(tmp_path_factory.mktemp("elastic"))


def lives(
    folder: Path,
    models: dict[str, Path],
    keys: dict[str, Any],
    parts: list[tuple[int, str]],
    dtype: str = "float32",
) -> tuple[dict[str, set[int]], dict[str, Tensor]]:
    """Run all lives of a run; return the rows of each step and the weights of the last one."""
    rows: dict[str, set[int]] = defaultdict(set)
    for life, (processes, stop) in enumerate(parts):
        words = [str(folder), str(models["plain"]), str(models["data"]), json.dumps(keys)]
        launch(LIFE, processes, *words, str(life), stop, dtype)
        steps: dict[str, list[set[int]]] = defaultdict(list)
        for rank in range(processes):
            for step, seen in json.loads(Path(f"{folder}-{life}-{rank}.json").read_text()).items():
                steps[step].append(set(seen))
        for step, shares in steps.items():
            assert len(set.union(*shares)) == sum(map(len, shares)), "a row was trained on twice"
            rows[step] = set.union(*shares)
    checkpoint = RunFolder(folder).read("last.json")["checkpoint"]
    return rows, load_file(folder / "checkpoints" / checkpoint / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_run_on_two_one_and_two_processes_equals_that_on_one(
    case: str, models: dict[str, Path], tmp_path: Path
) -> None:
    rows, weights = lives(tmp_path / "elastic", models, CASES[case], LIVES)
    expected_rows, expected = lives(tmp_path / "one", models, CASES[case], [(1, "")])
    assert rows == expected_rows
    assert len(rows) == 8
    has_gradient = [name for name in expected if not name.endswith(WITHOUT_GRADIENT)]
    assert len(expected) - len(has_gradient) <= 3  # one for each layer
    chosen = [{name: tensors[name] for name in has_gradient} for tensors in (expected, weights)]
    assert difference(*chosen) < 1e-6
    metrics = [
        RunFolder(tmp_path / name).read("results.json")["metrics"] for name in ("one", "elastic")
    ]
    assert metrics[1]["validation"]["loss"] == pytest.approx(
        metrics[0]["validation"]["loss"], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "micro"])
def test_run_in_float64_on_two_one_and_two_processes_equals_that_on_one(
    case: str, models: dict[str, Path], tmp_path: Path
) -> None:
    _, weights = lives(tmp_path / "elastic", models, CASES[case], LIVES, "float64")
    _, expected = lives(tmp_path / "one", models, CASES[case], [(1, "")], "float64")
    assert {tensor.dtype for tensor in expected.values()} == {torch.float64}
    assert difference(expected, weights) < 1e-12
