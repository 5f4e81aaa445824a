"""Rows whose label is probably wrong, by a head that learned from other rows only.

The head reads cached features of the pretrained network, so that this takes minutes at most.
cleanlab ranks the rows (confident learning, Northcutt et al. 2021, arXiv:1911.00068).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.loading import Loaded
from finetune.config.schema import OptimConfig, OutputConfig, RunConfig, TrainConfig
from finetune.data.opening import open_splits
from finetune.data.selection import GIVEN, SUGGESTED, joined
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError
from finetune.io.table_writer import open_writer
from finetune.methods.method_configs import FrozenConfig
from finetune.reporting.console import Console
from finetune.reports.label_ranking import load_cleanlab, rank_doubtful
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows
from finetune.task_parts.views import LabelScores, Views
from finetune.training.linear_solver import out_of_fold
from finetune.training.setup import assemble, cache_features

FEWEST_ROWS = 20


def write_label_issues(
    loaded: Loaded, task: Task, path: Path, console: Console, *, data: Any = None
) -> list[Row]:
    """Find training rows with a suspicious label, write them to `path` and return them.

    The most suspicious ones come first. Rows that a share of train would hold out are examined as
    well. Raises ConfigError for a task without labels, and if cleanlab is not installed.
    """
    if type(task.views).label_scores is Views.label_scores:
        raise ConfigError(
            f"label issues: rows of {task.name} have no label of their own; what a trained "
            "detector contradicts is in its report: finetune report RUN DATA"
        )
    load_cleanlab()  # before the minutes that it takes to get there
    config = solver_config(loaded.config)
    with console.during("reading and checking the rows"):
        splits = open_splits(config.data, task, data)
    accelerator = make_accelerator(
        choose_precision(config.train.precision, this_process().device)[0]
    )
    with console.during("loading the network and encoding the rows"):
        prepared = assemble(config, task, splits, accelerator)
    live = cache_features(prepared, console).live
    if live.train.features is None or len(live.train) < FEWEST_ROWS:
        raise ConfigError(
            f"label issues: need cached features of at least {FEWEST_ROWS} rows; this network has "
            f"none, or there are only {len(live.train)} rows"
        )
    with console.during("fitting a head to each part of the rows"):
        stats = out_of_fold(live.model, task, live.train, seed=config.train.seed)
    scores = task.views.label_scores(stats)
    if scores is None:
        raise ConfigError("label issues: this task has no labels; only labels are examined")
    rows, numbers = live.train.rows, live.train.numbers(splits.numbers["train"])
    ranked = rank_doubtful(scores)
    issues = list(_describe(ranked, scores, take_rows(rows, ranked), numbers, task.rows.inputs))
    if this_process().is_main_process:
        columns = list(issues[0]) if issues else ["rank", "row", GIVEN, SUGGESTED]
        with open_writer(path, columns=columns) as write:
            write(issues)
    console.print(f"{len(issues)} of {len(live.train)} rows have a suspicious label: {path}")
    return issues


def solver_config(config: RunConfig) -> RunConfig:
    """Return a config that reads the rows of `config`, all in train, and solves a head exactly."""
    shares = [n for n in ("validation", "test") if not isinstance(getattr(config.data, n), str)]
    sections = {
        "data": config.data.model_copy(update=dict.fromkeys(shares, 0.0)),
        "method": FrozenConfig(solver="exact"),
        "optim": OptimConfig(),
        "train": TrainConfig(seed=config.train.seed, precision=config.train.precision),
        "output": OutputConfig(),
    }
    return config.model_copy(update=sections)


def _describe(
    positions: Sequence[int],
    scores: LabelScores,
    rows: Sequence[Row],
    numbers: Sequence[int],
    inputs: Sequence[str],
) -> Iterator[Row]:
    for rank, (position, row) in enumerate(zip(positions, rows, strict=True), start=1):
        chances, truth = scores.scores[position], scores.truth[position]
        likely = chances == chances.max() if scores.exclusive else chances >= 0.5
        shown = {name: row[name] for name in inputs if isinstance(row.get(name), str | int | float)}
        file = {"file": row["file"]} if isinstance(row.get("file"), str) else {}
        yield {
            "rank": rank,
            "row": int(numbers[position]),
            GIVEN: joined(np.array(scores.names)[truth].tolist()),
            SUGGESTED: joined(np.array(scores.names)[likely].tolist()),
            "probability": round(float(np.where(truth, chances, 1 - chances).min()), 4),
            **file,
            **shown,
        }
