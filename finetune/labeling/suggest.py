"""Rows of a pool to label next, by a run or, for the first rows, by a pretrained network."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.analysis.feature_space import principal_components
from finetune.analysis.requirements import check_analysis
from finetune.config.schema import DataConfig
from finetune.data.source import RowsRequest, make_embedding_source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError, DataError, format_count, shell_word
from finetune.inference.embedding import open_embedding
from finetune.inference.embedding_network import is_backbone, is_fine_tuned
from finetune.inference.model_loading import model_folder, read_task
from finetune.inference.stored_code import check_stored_task
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import check_output
from finetune.labeling.criteria import Criterion, Indices, choose_rows
from finetune.labeling.label_sheet import write_sheet
from finetune.labeling.pool import Pool, identities_of, read_pool, target_columns
from finetune.registry import find_task_config
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts.samples import Row

_COMPONENTS = 50
_NEED_PREDICTIONS = ("both", "uncertainty")


def suggest(
    model: str | os.PathLike[str],
    pool: Any,
    output: str | Path,
    *,
    count: int = 100,
    by: Criterion | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> list[Row]:
    """Choose `count` rows of `pool` to label next; write them to `output` and return the lines.

    `model` is a fine-tuned run, or a pretrained network for the first rows. `by` is "both",
    "uncertainty", "diversity" or "typicality"; by default both for a run, typicality for a
    pretrained network. `keys` set how the pool is read, or keys of the task. Raises FinetuneError.
    """
    source = make_embedding_source(pool, keys, "call")
    request = RowsRequest(os.fspath(model), source, batch_size, precision, trust_code)
    return suggest_rows(request, Path(output), count, by, seed)


def suggest_rows(
    request: RowsRequest, output: Path, count: int, by: Criterion | None, seed: int
) -> list[Row]:
    """Choose rows to label next; what is chosen is a function of rows, network and seed."""
    model, source = request.model, request.source
    check_analysis("suggest")
    check_output(output)
    if this_process().num_processes > 1:
        raise ConfigError("suggest: runs in one process; start it without a launcher")
    console = Console()
    trained = is_fine_tuned(model) and not is_backbone(model_folder(model))
    criterion: Criterion = by or ("both" if trained else "typicality")
    predicts = trained and criterion in _NEED_PREDICTIONS
    if criterion in _NEED_PREDICTIONS and not trained:
        raise ConfigError(
            f"--by {criterion}: {model} is not fine-tuned, so it predicts no labels; choose the "
            "first rows by typicality or diversity, label them, and train"
        )
    if predicts:
        options = {**source.options, **_all_scores(request)}
        request = replace(request, source=replace(source, options=options))
    embedder, inputs = open_embedding(request, console)
    trained_on = set[Hashable]()
    if trained:
        trained_on = identities_of(model, console, trust_code=request.trust_code)
    pool = read_pool(embedder, inputs, trained_on, console, predicts=predicts)
    if predicts and pool.uncertainty is None:
        raise ConfigError(
            f"--by {criterion}: {embedder.task.name} of {model} predicts no probabilities of "
            "labels; use --by typicality or diversity"
        )
    chosen = _choose(pool, count, criterion, seed, source.name)
    lines = write_sheet(output, pool, chosen, embedder.task)
    known = int(pool.is_known.sum())
    console.print(
        f"{format_count(len(lines), 'row')} of {len(pool.numbers) - known} without a label written "
        f"to {output} (by {criterion})"
        + f"; {known} of the pool are labeled already, or equal another row"
        * bool(known)
    )
    label = ", ".join(target_columns(embedder.task))
    if trained:
        command = _next_training(output, model)
    else:
        command = _first_training(output, model, embedder.task, source.options)
    console.print(f"fill in the column {label}, then {command}")
    return lines


def _choose(pool: Pool, count: int, criterion: Criterion, seed: int, name: str) -> Indices:
    """Return the indices in the pool of the rows to label."""
    (unknown,) = np.nonzero(~pool.is_known)
    if not len(unknown):
        raise DataError(f"{name}: every row has a label already; give a pool of other rows")
    points = principal_components(pool.vectors, _COMPONENTS).points
    uncertainty = pool.uncertainty
    chosen = choose_rows(
        points[unknown],
        points[pool.is_known],
        None if uncertainty is None else uncertainty[unknown],
        count,
        criterion,
        seed,
    )
    return unknown[chosen]


def _all_scores(request: RowsRequest) -> dict[str, Any]:
    """Return the key by which predictions hold the probability of every label, if there is one."""
    folder = model_folder(request.model)
    name = read_task(folder)["name"]
    check_stored_task(name, folder / "task.json", trust_code=request.trust_code)
    config = find_task_config(name)
    return {"scores": "all"} if "scores" in config.model_fields else {}


def _first_training(output: Path, model: str, task: Task, options: Mapping[str, Any]) -> str:
    """Return the command that trains on the first answers."""
    keys = [f"task.{key}={value}" for key, value in options.items() if key != "name"]
    words = (f"task={task.name}", f"data={output}", f"model={model}", "method=frozen", *keys)
    return f"run: finetune train {' '.join(map(shell_word, words))}"


def _next_training(output: Path, model: str) -> str:
    """Return the command that trains a run again with the answers, and those of earlier sheets."""
    run = RunFolder(Path(model))
    data = run.read_section("data", DataConfig) if run.has_config else DataConfig()
    if data.source is None and data.train is None:  # rows made in Python
        return f"train with the keys of the run and data.answers={output}"
    earlier = data.answers if isinstance(data.answers, list) else [data.answers]
    sheets = ",".join([*filter(None, earlier), str(output)])
    answers = f"[{sheets}]" if "," in sheets else sheets
    words = (f"{model}/config.yaml", f"data.answers={answers}", f"output={model}-next")
    return f"run: finetune train {' '.join(map(shell_word, words))}"
