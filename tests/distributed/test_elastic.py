"""A run goes on with another number of processes: the same samples in every step, equal weights."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
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
from tests.support.lives import Seen, Stop, live, load

rank, seen = this_process().process_index, Seen()
folder, model, data, keys, life, stop = sys.argv[1:]
loaded = load(Path(folder), Path(model), Path(data), json.loads(keys))
live(loaded, seen=seen, stop=Stop(int(stop)) if stop else None)
rows = {step: [row for rows, _ in batches for row in rows] for step, batches in seen.steps.items()}
Path(f"{folder}-{life}-{rank}.json").write_text(json.dumps(rows))
"""
# (processes, the step during which a signal ends the life; "": the end)
LIVES = [(2, "3"), (1, "6"), (2, "")]
CASES: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    "lora": {"method": "lora", "method.dropout": 0, "optim.ema": 0.5},
    "frozen": {"method": "frozen"},
    # Adam divides by the size of a gradient, which turns the rounding of a tiny one into a step.
    "partial": {"method": "partial", "method.unfreeze_every": 0.5, "optim": "sgd", "lr": 0.05},
    "micro": {"method": "full", "train.micro_batch": 2},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models_and_data(tmp_path_factory.mktemp("elastic"))


def lives(
    folder: Path, models: dict[str, Path], keys: dict[str, Any], parts: list[tuple[int, str]]
) -> tuple[dict[str, set[int]], dict[str, Tensor]]:
    """Run all lives of a run; return the rows of each step and the weights of the last one."""
    rows: dict[str, set[int]] = defaultdict(set)
    for life, (processes, stop) in enumerate(parts):
        words = [str(folder), str(models["plain"]), str(models["data"]), json.dumps(keys)]
        launch(LIFE, processes, *words, str(life), stop)
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
    assert difference(expected, weights) < 1e-5
    metrics = [
        RunFolder(tmp_path / name).read("results.json")["metrics"] for name in ("one", "elastic")
    ]
    assert metrics[1]["validation"]["loss"] == pytest.approx(
        metrics[0]["validation"]["loss"], rel=1e-4
    )
