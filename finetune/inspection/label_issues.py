"""Rows whose label is probably wrong, by a head that learned from other rows only.

The head reads cached features of the pretrained network, so that this takes minutes at most.
cleanlab ranks the rows (confident learning, Northcutt et al. 2021, arXiv:1911.00068). Objects in
rows, such as boxes, are compared with what a trained model finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.loading import Loaded
from finetune.config.schema import DataConfig, OptimConfig, OutputConfig, RunConfig, TrainConfig
from finetune.data.opening import open_splits
from finetune.data.reviewed import GIVEN, SUGGESTED, joined
from finetune.data.source import Source
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError, format_count
from finetune.inference.evaluate import evaluate_source
from finetune.io.run_folder import RunFolder
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
    loaded: Loaded,
    task: Task,
    path: Path,
    console: Console,
    *,
    run: RunFolder | None = None,
    data: Any = None,
) -> list[Row]:
    """Find training rows with a suspicious label, write them to `path` and return them.

    The most suspicious ones come first. Rows that a share of train would hold out are examined as
    well. Labels of objects are examined by the trained model of `run`. Raises ConfigError for a
    task without labels, without that model, and if cleanlab is not installed.
    """
    if type(task.views).item_issues is not Views.item_issues:
        return _write_item_issues(loaded, task, path, console, run, data=data)
    if type(task.views).label_scores is Views.label_scores:
        raise ConfigError(
            f"label issues: rows of {task.name} have no labels; use finetune report RUN"
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
    _write(issues, path)
    console.print(f"{len(issues)} of {len(live.train)} rows have a suspicious label: {path}")
    return issues


def _write(issues: Sequence[Row], path: Path) -> None:
    if this_process().is_main_process:
        columns = list(issues[0]) if issues else ["rank", "row", GIVEN, SUGGESTED]
        with open_writer(path, columns=columns) as write:
            write(issues)


def _write_item_issues(
    loaded: Loaded, task: Task, path: Path, console: Console, run: RunFolder | None, *, data: Any
) -> list[Row]:
    """Write the objects whose label the trained model of `run` contradicts.

    The column "split" says which rows the run learned from: it may have learned their errors.
    """
    if run is None or not (run.final / "task.json").is_file():
        raise ConfigError(
            f"label issues: labels of {task.name} are examined by a trained model; name a finished "
            "run: finetune label-issues RUN, or RUN data=DATA for other rows"
        )
    config = loaded.config
    with console.during("reading and checking the rows"):
        divided = open_splits(config.data, task, data)
        splits = open_splits(solver_config(config).data, task, data)
    own = config.data == run.read_section("data", DataConfig)
    split_of = {
        int(number): name
        for name, numbers in divided.numbers.items()
        for number in (numbers if own and name in ("train", *_shares(config)) else [])
    }
    rows = Source(splits.train, DataConfig())
    measured = evaluate_source(str(run.path), rows, console, config.train.batch_size)
    known = splits.numbers["train"]
    numbers = [int(known[number - 1]) for number in measured.numbers]
    stats, split = measured.evaluation.stats, measured.split
    found = measured.task.views.item_issues(stats, lambda some: take_rows(split.rows, some))
    issues = [
        {
            "rank": rank,
            "row": numbers[place],
            **({"split": split_of.get(numbers[place], "")} if split_of else {}),
            **line,
        }
        for rank, (place, line) in enumerate(found, start=1)
    ]
    _write(issues, path)
    console.print(
        f"{format_count(len(issues), 'suspicious label')} in "
        f"{format_count(len({issue['row'] for issue in issues}), 'row')} of {len(split)}: {path}"
    )
    if split_of:
        console.print(
            "the model learned from rows of train, and may have learned their errors: those of "
            "other rows are found better; data.validation=0.5 leaves it half of the rows to examine"
        )
    return issues


def _shares(config: RunConfig) -> list[str]:
    """Return the held-out splits that are shares of train; their rows are examined, too."""
    return [n for n in ("validation", "test") if not isinstance(getattr(config.data, n), str)]


def solver_config(config: RunConfig) -> RunConfig:
    """Return a config that reads the rows of `config`, all in train, and solves a head exactly."""
    sections = {
        "data": config.data.model_copy(update=dict.fromkeys(_shares(config), 0.0)),
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
