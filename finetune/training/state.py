"""What is in memory while a run trains, where it stands, and what the loop tells of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from accelerate import Accelerator

from finetune.batching.data_loader import Split
from finetune.batching.plan import TrainPlan
from finetune.config.schema import RunConfig
from finetune.methods.base import Method
from finetune.model import TransferModel
from finetune.optim.ema import Ema
from finetune.task import Task


@dataclass
class Progress:
    """Where a run stands after `step` updates: JSON, saved with every checkpoint."""

    step: int = 0
    best_value: float | None = None
    best_loss: float = 0.0
    """Of the evaluation that gave `best_value`."""
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    stopped: bool = False
    """Whether early stopping has ended the run."""
    loss_sums: dict[str, list[float]] = field(default_factory=dict)
    """Of each term, by process, over the steps since the last line of the log."""
    loss_steps: int = 0
    skipped: int = 0
    """Updates that the loss scaler of fp16 has left out, since their gradients overflowed."""

    def note_evaluation(self, value: float, loss: float, patience: int | None) -> bool:
        """Take an evaluation into account; True if it is the best so far.

        Larger values are better, and of equal ones, which few rows often give, that of less loss;
        one that is not a number is never best.
        """
        best = None if self.best_value is None else (self.best_value, -self.best_loss)
        if not math.isnan(value) and (best is None or (value, -loss) > best):
            self.best_value, self.best_loss = value, loss
            self.best_step, self.stale = self.step, 0
            return True
        self.stale += 1
        self.stopped = patience is not None and self.stale >= patience
        return False


@dataclass(frozen=True)
class Live:
    """Everything that is in memory while a run trains."""

    config: RunConfig
    task: Task
    method: Method
    model: TransferModel
    optimizer: Any
    """An accelerate.AcceleratedOptimizer."""
    accelerator: Accelerator
    train: Split
    plan: TrainPlan
    total_steps: int
    ema: Ema | None = None


class Journal(Protocol):
    """What the loop tells, and to whom it leaves evaluating and saving."""

    @property
    def evaluates(self) -> bool: ...
    def log(self, step: int, values: dict[str, float]) -> None: ...
    def tick(self, step: int) -> None: ...
    def evaluate(self, step: int) -> dict[str, float]: ...
    def save(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...
