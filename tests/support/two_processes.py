"""Script of tests/distributed/ for each process; one launch runs all cases, since imports are slow.

    python -m tests.support.two_processes OUT CASES MODEL PLAIN_MODEL DATA

CASES is the JSON of a list of Case. Rank 0 writes its results to OUT/<name of the case>.json.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from finetune.batching import plan
from finetune.distributed.fsdp import full_tensor
from finetune.distributed.launch import this_process
from finetune.io.run_folder import RunFolder
from finetune.training import loop
from tests.support.lives import Seen, Stop, history, left_behind, live, load

TIMEOUT = 2400  # seconds


@dataclass(frozen=True)
class Case:
    """A run with some keys; with stops, it is trained once without and once with them."""

    name: str
    keys: dict[str, Any]
    stops: list[Stop] = field(default_factory=list)
    has_dropout: bool = True
    pass_cost: int = plan.PASS_COST
    """Cost of a pass by which random batches are divided."""


def run_case(case: Case, out: Path, model: Path, data: Path) -> dict[str, Any]:
    """Run a case; return its results without ("once") and with stops ("often").

    Also saves the gradients of the run without stops.
    """
    is_main_process = PartialState().is_main_process
    once, often = Seen(), Seen()
    with gradients() as recorded, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "PASS_COST", case.pass_cost)
        unstopped = live(load(out / case.name / "once", model, data, case.keys), seen=once)
    assert unstopped is not None
    result: dict[str, Any] = {"history": history(unstopped), "seen": seen_rows(once)}
    if is_main_process:
        save_file(recorded, out / f"{case.name}.safetensors")
    if case.stops:
        loaded = load(out / case.name / "often", model, data, case.keys)
        for stop in case.stops:
            assert live(loaded, seen=often, stop=stop) is None, stop
        stopped = live(loaded, seen=often)
        assert stopped is not None
        assert often.steps == once.steps
        result |= {"once": summary(unstopped), "often": summary(stopped)}
    return result


def summary(folder: RunFolder) -> Any:
    """Return `left_behind` after a round trip through JSON, so that it equals a loaded one."""
    return json.loads(json.dumps(left_behind(folder)))


def seen_rows(seen: Seen) -> list[list[list[int]]]:
    return [[list(rows) for rows, _ in seen.steps[step]] for step in sorted(seen.steps)]


@contextmanager
def gradients() -> Iterator[dict[str, Tensor]]:
    """Record the gradients that the optimizer uses, as {"step/parameter": gradient}."""
    recorded: dict[str, Tensor] = {}
    set_rate, steps = loop.set_rate, [0]

    def recording_set_rate(optimizer: Any, factor: float) -> None:
        # By which a fused optimizer clips as it reads them.
        scale = getattr(optimizer.optimizer, "grad_scale", None)
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if parameter.grad is not None:
                    gradient = full_tensor(parameter.grad).clone()
                    recorded[f"{steps[0]}/{name}"] = gradient / (1 if scale is None else scale)
        steps[0] += 1
        set_rate(optimizer, factor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_rate", recording_set_rate)
        yield recorded


def main() -> None:
    out, cases, model, plain_model, data = sys.argv[1:]
    torch.set_num_threads(1)
    this_process()  # before any other PartialState, which would see a single process
    for values in json.loads(cases):
        stops = [Stop(**stop) for stop in values.pop("stops")]
        case = Case(**values, stops=stops)
        network = Path(model if case.has_dropout else plain_model)
        result = run_case(case, Path(out), network, Path(data))
        if PartialState().is_main_process:
            (Path(out) / f"{case.name}.json").write_text(json.dumps(result))
        PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def to_json(cases: list[Case]) -> str:
    return json.dumps([asdict(case) for case in cases])


def launch(cases: list[Case], out: Path, models: dict[str, Path]) -> Path:
    """Run cases in two gloo processes; return `out`."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.two_processes", str(out), to_json(cases)]
    command += map(str, models.values())
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "FINETUNE_CACHE": str(out / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    logs = [out / f"rank-{rank}.log" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    try:
        deadline = time.monotonic() + TIMEOUT
        codes = [process.wait(max(1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    texts = "\n".join(log.read_text()[-3000:] for log in logs)
    assert codes == [0, 0], texts
    return out


def result(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())  # type: ignore[no-any-return]


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the maximum absolute difference relative to the largest value of `first`."""
    assert first.keys() == second.keys()
    largest = max(float(tensor.abs().max()) for tensor in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / largest


def assert_same_end(folder: Path, case: Case) -> None:
    results = result(folder, case.name)
    assert results["often"] == results["once"]


if __name__ == "__main__":
    main()
