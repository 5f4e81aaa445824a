"""Heads on features that are computed once: many small trainings in one process.

They are trained by the kit's own loop or exact solver, without checkpoints, evaluation or export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.batching.data_loader import Features, Split
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.inference.evaluation_loop import evaluate_split
from finetune.optim.optimizers import build_optimizer
from finetune.registry import INSTALLED, make_method, make_task
from finetune.reporting.console import Console
from finetune.task_parts.samples import Sample, Stats
from finetune.training.linear_solver import solve_head
from finetune.training.loop import train_steps
from finetune.training.setup import Prepared, add_synthetic_rows, assemble, cache_features
from finetune.training.state import Live, Progress


class Silent:
    """A journal that keeps nothing."""

    evaluates = False

    def log(self, step: int, values: dict[str, float]) -> None: ...
    def tick(self, step: int) -> None: ...
    def save(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...

    def evaluate(self, step: int) -> dict[str, float]:
        raise NotImplementedError


@dataclass(frozen=True)
class SomeFeatures:
    """Features of some rows of a split."""

    whole: Features
    places: np.ndarray

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]:
        return self.whole.take(self.places[list(indices)].tolist(), turns)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        return self.whole.samples(self.places[list(indices)].tolist())


def some_rows(split: Split, places: np.ndarray) -> Split:
    """Return a split of some rows of another one with cached features."""
    assert split.features is not None
    rows: Any = split.rows
    features = SomeFeatures(split.features, places)
    lengths = split.lengths[places]
    return replace(
        split, rows=rows.select(places), lengths=lengths, features=features, positions=None, memo={}
    )


def prepare(words: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Prepared:
    """Compute the features of all rows, which are all in train."""
    loaded = load_config(None, [*words, "method=frozen", "data.source=rows.jsonl"], INSTALLED)
    data = loaded.config.data.model_copy(update={"source": None, "validation": 0.0})
    config, task = loaded.config.model_copy(update={"data": data}), make_task(loaded.config.task)
    splits = open_splits(data, task, list(rows))
    prepared = assemble(config, task, splits, make_accelerator("fp32"))
    return cache_features(prepared, Console(enabled=False))


def fit(
    prepared: Prepared,
    train: np.ndarray,
    test: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    change: Callable[[Live], None] = lambda live: None,
    exact: bool = False,
    **keys: Any,
) -> Stats:
    """Train a new head on some rows; return the statistics of others.

    `keys` are those of the section train; `groups` of all rows are for balanced sampling and group
    DRO. `change` may change the task before training.
    """
    live = prepared.live
    settings = live.config.train.model_copy(update={"seed": seed, **keys})
    config = live.config.model_copy(update={"train": settings})
    split = some_rows(live.train, train)
    torch.manual_seed(seed)
    for name in live.model.heads:
        head: Any = live.model.network.get_submodule(name)
        head.reset_parameters()
    method = make_method(config.method)
    optimizer = build_optimizer(config.optim, method.param_groups(live.model, config.optim))
    of_train = None if groups is None else np.unique(groups[train], return_inverse=True)[1]
    balanced = settings.sampling == "balanced"
    plan = replace(
        live.plan,
        lengths=split.lengths,
        seed=seed,
        classes=of_train if balanced else None,
        groups=None if settings.group_dro is None else of_train,
    )
    steps = int((settings.epochs or 1) * plan.steps_per_epoch)
    optimizer = live.accelerator.prepare_optimizer(optimizer)
    live = replace(
        live, config=config, train=split, plan=plan, total_steps=steps, optimizer=optimizer
    )
    change(live)
    if settings.synthetic is not None:
        live = add_synthetic_rows(replace(prepared, live=live)).live
    if exact:
        solve_head(live.model, live.task, live.train, seed=seed, classes=plan.classes)
    else:
        train_steps(live, Progress(), Silent(), None)
    held_out = some_rows(prepared.live.train, test)
    return evaluate_split(live.model, live.task, held_out, live.accelerator, block=256).stats
