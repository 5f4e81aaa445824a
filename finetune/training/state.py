"""State of a run in training: live objects, progress, and the loop's interface to the journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from accelerate import Accelerator

from finetune.batching.data_loader import Split
from finetune.batching.plan import TrainPlan
from finetune.config.schema import RunConfig
from finetune.inference.evaluation_loop import Evaluation
from finetune.io.run_folder import RunFolder
from finetune.methods.base import Method
from finetune.model import TransferModel
from finetune.optim.ema import Ema
from finetune.task import Task


@dataclass
class Progress:
    """Progress of a run after `step` updates; saved as JSON with every checkpoint."""

    step: int = 0
    best_value: float | None = None
    best_loss: float = 0.0
    """Loss of the evaluation that gave `best_value`."""
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    stopped: bool = False
    """True once early stopping has ended the run."""
    loss_sums: dict[str, list[float]] = field(default_factory=dict)
    """{term: sum per process} over the steps since the last logged line."""
    loss_steps: int = 0
    """Steps in those sums."""
    group_weights: list[float] = field(default_factory=list)
    """Weights of the groups under train.group_dro; [] before the first checkpoint."""
    skipped: int = 0
    """Updates that the fp16 loss scaler has skipped because of overflowing gradients."""

    def note_evaluation(self, value: float, loss: float, patience: int | None) -> bool:
        """Record an evaluation; True if it is the best so far.

        Larger values are better. Ties, common on few rows, are broken by lower loss; NaN is never
        the best.
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


@dataclass(frozen=True)
class TrialHooks:
    """What a search adds to a trial, which is neither calibrated nor measured on test.

    Attributes:
        evaluated: called in every process with the step and the metrics of each evaluation during
            training. To end the run, it raises in all processes.
        saved: called in every process after each checkpoint; may raise like `evaluated`.
        finished: called in the main process with the final evaluation of the validation split,
            before the run is marked as finished.
    """

    evaluated: Callable[[Live, RunFolder, int, Mapping[str, float]], None]
    saved: Callable[[], None]
    finished: Callable[[Live, Evaluation], None]


class Journal(Protocol):
    """The loop's interface for logging, evaluating and saving."""

    @property
    def evaluates(self) -> bool: ...
    def log(self, step: int, values: dict[str, float]) -> None: ...
    def tick(self, step: int) -> None: ...
    def evaluate(self, step: int) -> dict[str, float]: ...
    def save(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...
