"""Runs that are interrupted and resumed, and their results: the basis of the exactness tests.

A life is one start of the training command in this process. It ends by itself, or by a `Stop` at
some step.
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
from finetune.io.checkpoint import find_latest_checkpoint
from finetune.io.run_folder import RunFolder
from finetune.optim.optimizers import trained_names
from finetune.registry import INSTALLED, find_task
from finetune.task import Task
from finetune.training import finalize, loop, run
from finetune.training.recorder import RunJournal


class Killed(BaseException):
    """Simulated SIGKILL: the engine does not catch it, and writes nothing after it."""


@dataclass(frozen=True)
class Stop:
    """End of a life: by SIGTERM during `step`, or by SIGKILL in one of the phases of the step."""

    step: int
    phase: str = "sigterm"
    """loading or sigterm: SIGTERM before or during the step; SIGKILL in: tick, log, evaluate, save,
    saved, finish.
    """
    rank: int | None = None
    """The only process that is stopped (the others must then stop by themselves); None: all."""


TIMINGS = ("samples_per_second", "seconds")  # of metrics.jsonl: they differ between equal runs

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    "lora": {"method": "lora"},
    "ia3": {"method": "ia3"},
    "bitfit": {"method": "bitfit"},
    "frozen-cached": {"method": "frozen"},
    "frozen-live": {"method": "frozen", "method.cache": "off"},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
}
# A run has 2 epochs of 4 steps. Each life ends at its `Stop`; the next one resumes.
LIVES = [
    Stop(0, "loading"),  # before the first update
    Stop(1),  # mid-epoch
    Stop(3, "tick"),  # killed without a checkpoint: resumes from step 1
    Stop(4, "evaluate"),  # the end of an epoch, before its checkpoint
    Stop(4, "save"),
    Stop(4, "saved"),
    Stop(4, "loading"),  # a signal before any new step
    Stop(6, "log"),
    Stop(7),
    Stop(8, "save"),  # the last step, before its checkpoint
    Stop(8, "saved"),
    Stop(8, "finish"),  # after the last checkpoint, before final/
]


@dataclass
class Seen:
    """The micro-batches that were trained on, by step, each with a digest of its batch.

    Later lives overwrite the steps of earlier ones.
    """

    steps: dict[int, list[tuple[tuple[int, ...], str]]] = field(default_factory=dict)
    same_again: bool = True
    """True if a repeated step must have the same micro-batches."""

    def note(self, batches: list[tuple[Any, Any]]) -> None:
        current = [(micro_batch.indices, digest(batch)) for micro_batch, batch in batches]
        step = batches[0][0].step
        previous = self.steps.get(step, current)
        assert previous == current or not self.same_again, f"step {step} was repeated differently"
        self.steps[step] = current


def digest(value: Any) -> str:
    """Return the SHA-256 of all tensors in a nested structure."""
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
    """Load the config of a small run: 2 epochs of 40 rows, in 3 steps of 12 rows and one of 4."""
    defaults: dict[str, Any] = {
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
    return load_config(None, {**defaults, **(keys or {})}, kinds)


def live(
    loaded: Loaded,
    *,
    seen: Seen | None = None,
    stop: Stop | None = None,
    kind: type[Task] | None = None,
    **flags: Any,
) -> RunFolder | None:
    """Run one life of a run; return None if it was stopped."""
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
    """Tensors of a network before and after the steps of a life, and the trained parameters."""

    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    @property
    def changed(self) -> set[str]:
        """Names of the parameters and buffers that changed in any bit."""
        assert self.before.keys() == self.after.keys()
        return {name for name, t in self.before.items() if not torch.equal(t, self.after[name])}


@contextmanager
def watched() -> Iterator[Watched]:
    """Record the changes of the network in a run inside the context, even if the run fails."""
    record, fit = Watched(), run.fit

    def snapshot(live: Any) -> dict[str, Tensor]:
        network = live.model.network
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def recording_fit(live: Any, *others: Any) -> None:
        record.before, record.trained = snapshot(live), trained_names(live.optimizer)
        try:
            fit(live, *others)
        finally:
            record.after = snapshot(live)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", recording_fit)
        yield record


def in_float64() -> None:
    """Train in float64 from here on in this process, so that rounding is of the order of 1e-16."""
    resume = run.resume

    def resume_in_float64(live: Any, *others: Any) -> Any:
        live.model.double()
        return resume(live, *others)

    run.resume = resume_in_float64
    loop.as_float32 = lambda outputs: outputs


def left_behind(folder: RunFolder) -> dict[str, Any]:
    """Return the results of a finished run that must not depend on interruptions."""
    checkpoint, faults = find_latest_checkpoint(folder.checkpoints)
    assert not faults
    assert checkpoint is not None
    final = {path.name: load_file(path) for path in sorted(folder.final.glob("*.safetensors"))}
    assert final
    # A stop adds a checkpoint, but must not leave an incomplete one.
    assert all(path.name.startswith("step-") for path in folder.checkpoints.iterdir())
    return {
        "final": {name: digest(tensors) for name, tensors in final.items()},
        "adapter": sorted(p.name for p in folder.final.rglob("*")),
        "model": {name: digest(tensor) for name, tensor in checkpoint.tensors("model").items()},
        "optimizer": {n: digest(tensor) for n, tensor in checkpoint.tensors("optimizer").items()},
        "state": checkpoint.state,
        "best": folder.read("best.json") if (folder.path / "best.json").is_file() else None,
        "last": folder.read("last.json"),
        "results": {k: v for k, v in folder.read("results.json").items() if k != "seconds"},
        "history": history(folder),
    }


def history(folder: RunFolder) -> list[dict[str, Any]]:
    """Return metrics.jsonl without its timings."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def _record(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    accumulate = loop._accumulate

    def recording_accumulate(live: Any, wrapped: Any, batches: Any, *others: Any) -> Any:
        seen.note(batches)
        return accumulate(live, wrapped, batches, *others)

    patch.setattr(loop, "_accumulate", recording_accumulate)


def _stop_at(patch: pytest.MonkeyPatch, stop: Stop) -> None:
    on_this_rank = stop.rank in (None, PartialState().process_index)
    if stop.phase == "finish":
        patch.setattr(finalize, "finalize_run", _killed)
        return
    if stop.phase == "loading":
        stream = loop._stream

        def stopping_stream(live: Any, plan: Any, start: int) -> Any:
            for micro_batch, batch in stream(live, plan, start):
                if micro_batch.step == stop.step and on_this_rank:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield micro_batch, batch

        patch.setattr(loop, "_stream", stopping_stream)
        return
    name = {"sigterm": "tick", "saved": "save"}.get(stop.phase, stop.phase)
    original = getattr(RunJournal, name)

    def stopping_method(self: RunJournal, position: Any, *others: Any) -> Any:
        stops_here = on_this_rank and getattr(position, "step", position) == stop.step
        if stops_here and stop.phase == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif stops_here and stop.phase != "saved":
            raise Killed
        result = original(self, position, *others)
        if stops_here and stop.phase == "saved":
            raise Killed
        return result

    patch.setattr(RunJournal, name, stopping_method)


def _killed(*_: Any) -> None:
    raise Killed
