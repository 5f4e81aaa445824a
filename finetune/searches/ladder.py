"""The ladder of methods: what a run of each takes, and on which rungs its learning rates compete.

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): several rates are tried for a
ninth of the length, the better ones for a third, and the best one to the end. The length is that of
the training in epochs, so that a short one below an epoch sees a part of the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from finetune.batching.shared_rows import SharedRows
from finetune.config.schema import RunConfig
from finetune.data.opening import Splits
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.inspection.run_costs import Cost, time_steps
from finetune.task import Task
from finetune.training.setup import assemble

LADDER = ("frozen", "lora", "partial", "full")
FACTORS = (1.0, 1 / 3, 3.0)
"""Learning rates that are tried, as multiples of the default."""


class Rung(NamedTuple):
    """How many rates are trained, and for which share of the length."""

    rates: int
    share: float


RUNGS = (Rung(len(FACTORS), 1 / 9), Rung(2, 1 / 3))
"""Before the last one, on which the best rate is trained to the end."""


@dataclass(frozen=True)
class Prospect:
    """A method before it is trained.

    Attributes:
        key: the key of its length, train.epochs or train.max_steps.
        length: that it has by default, or as the config says.
        rate: its learning rate by default; None if no other one is tried.
        steps: optimizer steps of a whole run.
        evaluations: of a whole run.
    """

    method: str
    key: str
    length: float
    rate: float | None
    steps: int
    evaluations: int
    cost: Cost

    @property
    def rates(self) -> list[float]:
        """The rates to try, the default first; none for a method without one."""
        return [] if self.rate is None else [short(self.rate * factor) for factor in FACTORS]

    @property
    def step_seconds(self) -> float:
        return self._training / self.steps

    def seconds(self, share: float = 1.0) -> float:
        """Estimate the time of a run of this share of the length, apart from what is done once."""
        return self._training * share

    def total(self, rungs: tuple[Rung, ...], overhead: float) -> float:
        """Estimate the time of all runs on some rungs and of the last one.

        `overhead` is the time that each run takes beside its steps.
        """
        runs = [(1, 1.0), *rungs]
        spent = sum(rates * (self.seconds(share) + overhead) for rates, share in runs)
        return self.cost.once_seconds + spent

    def rungs(self, left: float, overhead: float) -> tuple[Rung, ...] | None:
        """Return the rungs that fit into the time that is left; None if not even a run does."""
        most = RUNGS if self.rate is not None else ()
        for rungs in (most, most[:1], ()):
            if self.total(rungs, overhead) <= left:
                return rungs
        return None

    def shortened(self, share: float) -> dict[str, float]:
        """Return the keys that make a run as short as this share of its length."""
        if self.key == "train.max_steps":
            return {self.key: max(1, round(self.length * share))}
        return {self.key: float(f"{self.length * share:.4g}")}

    @property
    def _training(self) -> float:
        return self.cost.total(self.evaluations) - self.cost.once_seconds


def look_at(config: RunConfig, task: Task, splits: Splits, shared: SharedRows) -> Prospect:
    """Load the network with a method and time a step. Raises FinetuneError if it does not fit."""
    precision, _ = choose_precision(config.train.precision, this_process().device)
    # Rows are measured without test, as for the runs that follow.
    rows = replace(splits, test=None)
    prepared = assemble(config, task, rows, make_accelerator(precision), shared)
    live = prepared.live
    train, optim = live.config.train, live.config.optim
    every = train.evaluate_every
    steps = every if isinstance(every, int) else live.plan.steps_per_epoch
    has_epochs = train.max_steps is None
    rate = optim.head_lr if live.method.freezes_backbone else optim.lr
    is_fixed = config.optim.lr is not None or live.method.solves_head
    return Prospect(
        config.method.name,
        "train.epochs" if has_epochs else "train.max_steps",
        (train.epochs if has_epochs else train.max_steps) or 1,
        None if is_fixed or rate is None else short(rate),
        live.total_steps,
        math.ceil(live.total_steps / steps),
        time_steps(prepared),
    )


def short(rate: float) -> float:
    """Round a rate, so that it can be typed."""
    return float(f"{rate:.2g}")
