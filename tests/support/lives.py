"""Runs that are stopped and started again, with all that they leave behind: what exactness is measured on.

A life is one start of the training command in this process. It ends by itself, or by a `Stop` at some step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor

from finetune.config.loading import Loaded, load_config
from finetune.distributed.devices import map_tensors
from finetune.distributed.signals import Interrupted
from finetune.io.checkpoint import newest_good
from finetune.io.run_folder import RunFolder
from finetune.optim.optimizers import trained_names
from finetune.registry import INSTALLED, find_task
from finetune.task import Task
from finetune.training import loop, run
from finetune.training.recorder import RunJournal


class Killed(BaseException):
    """Stands for SIGKILL: no part of the engine catches it, and nothing is written after it."""


@dataclass(frozen=True)
class Stop:
    """Where a life ends: on SIGTERM during `step`, or killed there in one of the phases of a step."""

    step: int
    phase: str = "sigterm"
    """loading or sigterm: a signal before or during the step; killed: tick, log, evaluate, save, saved, finish."""
    rank: int | None = None
    """The one process that is stopped; None: all. The others must then stop by themselves."""


METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    "lora": {"method": "lora"},
    "ia3": {"method": "ia3"},
    "bitfit": {"method": "bitfit"},
    "frozen-cached": {"method": "frozen"},
    "frozen-live": {"method": "frozen", "method.cache": "off"},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
}
# A run has 2 epochs of 4 steps. Each life ends where its name says; the next goes on.
LIVES = [
    Stop(0, "loading"),  # before the first update
    Stop(1),  # mid-epoch
    Stop(3, "tick"),  # killed without a checkpoint: goes back to step 1
    Stop(4, "evaluate"),  # the end of an epoch, before its checkpoint
    Stop(4, "save"),
    Stop(4, "saved"),
    Stop(4, "loading"),  # a signal before anything new was done
    Stop(6, "log"),
    Stop(7),
    Stop(8, "save"),  # the last step, before its checkpoint
    Stop(8, "saved"),
    Stop(8, "finish"),  # and after it, before final/
]


@dataclass
class Seen:
    """The micro_batches that were trained on, by step, each with a digest of its batch; later lives overwrite."""

    steps: dict[int, list[tuple[tuple[int, ...], str]]] = field(default_factory=dict)
    same_again: bool = True
    """Whether a step that is done again must be cut in the same way."""

    def note(self, batches: list[tuple[Any, Any]]) -> None:
        found = [(micro_batch.indices, digest(batch)) for micro_batch, batch in batches]
        step = batches[0][0].step
        known = self.steps.get(step, found)
        assert known == found or not self.same_again, f"step {step} was done again, but differently"
        self.steps[step] = found


def digest(value: Any) -> str:
    """Of every tensor in a nest."""
    hashed = hashlib.sha256()

    def add(tensor: Tensor) -> Tensor:
        hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return tensor

    map_tensors(value, add)
    return hashed.hexdigest()


def load(
    folder: Path,
    model: Path | str,
    data: Path,
    keys: Mapping[str, Any] | None = None,
    task: type[Task] | None = None,
) -> Loaded:
    """The config of a small run: 40 rows in steps of 12, so 4 an epoch, the last of 4 rows; 2 epochs."""
    usual: dict[str, Any] = {
        "task": task.name if task else "text-classification",
        "data.source": str(data),
        "data.validation": 0.2,
        "model": str(model),
        "train.batch_size": 12,
        "train.micro_batch": 5,
        "train.epochs": 2,
        "train.log_every": 3,
        "train.precision": "fp32",
        "train.keep_checkpoints": 2,
        "output": str(folder),
    }
    kinds = INSTALLED if task is None else replace(INSTALLED, task=lambda _: task.Config)
    return load_config(None, {**usual, **(keys or {})}, kinds)


def live(
    loaded: Loaded,
    *,
    seen: Seen | None = None,
    stop: Stop | None = None,
    kind: type[Task] | None = None,
    **flags: Any,
) -> RunFolder | None:
    """One life of a run; None if it was stopped."""
    task: Task = (kind or find_task(loaded.config.task.name))(loaded.config.task)
    with pytest.MonkeyPatch.context() as patch:
        if seen is not None:
            _record(patch, seen)
        if stop is not None:
            _stop_at(patch, stop)
        try:
            return run.run(loaded, task, **flags)
        except Killed:
            return None
        except Interrupted as error:
            assert stop is not None
            assert error.exit_code == 143
            return None


@dataclass
class Watched:
    """The network of a run before its first step of this life and after its last, and what it trains."""

    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    @property
    def changed(self) -> set[str]:
        """Parameters and buffers that are not what they were, bit for bit."""
        assert self.before.keys() == self.after.keys()
        return {name for name, t in self.before.items() if not torch.equal(t, self.after[name])}


@contextmanager
def watched() -> Iterator[Watched]:
    """What training does to the network of each run inside, whether it ends well or not."""
    found, fit = Watched(), run.fit

    def snapshot(live: Any) -> dict[str, Tensor]:
        network = live.model.network
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def watching(live: Any, *others: Any) -> None:
        found.before, found.trained = snapshot(live), trained_names(live.optimizer)
        try:
            fit(live, *others)
        finally:
            found.after = snapshot(live)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", watching)
        yield found


def left_behind(folder: RunFolder) -> dict[str, Any]:
    """All that a finished run leaves and that must not depend on how often it was stopped."""
    checkpoint, faults = newest_good(folder.checkpoints)
    assert not faults
    assert checkpoint is not None
    final = {path.name: load_file(path) for path in sorted(folder.final.glob("*.safetensors"))}
    assert final
    # A stop leaves one checkpoint more than there would be, but nothing unfinished.
    assert all(path.name.startswith("step-") for path in folder.checkpoints.iterdir())
    return {
        "final": {name: digest(tensors) for name, tensors in final.items()},
        "adapter": sorted(p.name for p in folder.final.rglob("*")),
        "model": {name: digest(tensor) for name, tensor in checkpoint.tensors("model").items()},
        "optimizer": {n: digest(tensor) for n, tensor in checkpoint.tensors("optimizer").items()},
        "state": checkpoint.state,
        "best": folder.read("best.json") if (folder.path / "best.json").is_file() else None,
        "last": folder.read("last.json"),
        "results": folder.read("results.json"),
        "history": history(folder),
    }


def history(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def _record(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    accumulate = loop._accumulate

    def recording(live: Any, wrapped: Any, batches: Any, counts: Any) -> Any:
        seen.note(batches)
        return accumulate(live, wrapped, batches, counts)

    patch.setattr(loop, "_accumulate", recording)


def _stop_at(patch: pytest.MonkeyPatch, stop: Stop) -> None:
    concerned = stop.rank in (None, PartialState().process_index)
    if stop.phase == "finish":
        patch.setattr(run, "finish", _killed)
        return
    if stop.phase == "loading":
        stream = loop._stream

        def stopping_stream(live: Any, plan: Any, start: int) -> Any:
            for micro_batch, batch in stream(live, plan, start):
                if micro_batch.step == stop.step and concerned:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield micro_batch, batch

        patch.setattr(loop, "_stream", stopping_stream)
        return
    name = {"sigterm": "tick", "saved": "save"}.get(stop.phase, stop.phase)
    usual = getattr(RunJournal, name)

    def stopping(self: RunJournal, place: Any, *others: Any) -> Any:
        here = concerned and getattr(place, "step", place) == stop.step
        if here and stop.phase == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif here and stop.phase != "saved":
            raise Killed
        result = usual(self, place, *others)
        if here and stop.phase == "saved":
            raise Killed
        return result

    patch.setattr(RunJournal, name, stopping)


def _killed(*_: Any) -> None:
    raise Killed
