"""What tests/test_distributed.py runs in each of its processes, all in one launch: an import costs seconds.

    python -m tests.two_processes OUT CASES MODEL PLAIN_MODEL DATA

CASES is the JSON of a list of Case. What the first process finds goes to OUT/<name of the case>.json.
"""

from __future__ import annotations

import json
import sys
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

from finetune import loop
from finetune.folder import RunFolder
from finetune.processes import this_process
from finetune.sharding import whole
from tests.lives import Seen, Stop, history, left_behind, live, load


@dataclass(frozen=True)
class Case:
    """A run with some keys; with stops, it is done once without and once with them."""

    name: str
    keys: dict[str, Any]
    stops: list[Stop] = field(default_factory=list)
    has_dropout: bool = True


def run_case(case: Case, out: Path, model: Path, data: Path) -> dict[str, Any]:
    """What a case left behind, by "once" and "often"; the gradients of "once" beside it."""
    speaks = PartialState().is_main_process
    once, often = Seen(), Seen()
    with gradients() as found:
        unstopped = live(load(out / case.name / "once", model, data, case.keys), seen=once)
    assert unstopped is not None
    result: dict[str, Any] = {"history": history(unstopped), "seen": seen_rows(once)}
    if speaks:
        save_file(found, out / f"{case.name}.safetensors")
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
    """As JSON tells it, so that it can be compared after it was written."""
    return json.loads(json.dumps(left_behind(folder)))


def seen_rows(seen: Seen) -> list[list[list[int]]]:
    return [[list(rows) for rows, _ in seen.steps[step]] for step in sorted(seen.steps)]


@contextmanager
def gradients() -> Iterator[dict[str, Tensor]]:
    """The gradient of every step, as the optimizer takes it: "step/parameter"."""
    found: dict[str, Tensor] = {}
    usual, steps = loop.set_rate, [0]

    def noting(optimizer: Any, factor: float) -> None:
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if parameter.grad is not None:
                    found[f"{steps[0]}/{name}"] = whole(parameter.grad).clone()
        steps[0] += 1
        usual(optimizer, factor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_rate", noting)
        yield found


def main() -> None:
    out, cases, model, plain_model, data = sys.argv[1:]
    torch.set_num_threads(1)
    this_process()  # before any other PartialState: a plain one would see itself alone
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


if __name__ == "__main__":
    main()
