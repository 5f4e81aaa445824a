"""One run from config to final/: each room of the house in turn."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.config.loading import Loaded
from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten
from finetune.data.opening import Splits, open_splits
from finetune.distributed.launch import deterministic, environment, make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError, nearest
from finetune.export.hub import check_repository, note_missing_token, push_finished
from finetune.export.licenses import check_licence
from finetune.io.checkpoint import load_optimizer, newest_good
from finetune.io.run_folder import RunFolder, check_free, check_same_run
from finetune.optim.optimizers import check_optimizer
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_results
from finetune.reporting.trackers import check_trackers, tracked
from finetune.task import Task
from finetune.training.contrastive import keep_backbone, tune_backbone
from finetune.training.finalize import finish, keep_untrained
from finetune.training.linear_solver import solve_head
from finetune.training.loop import train_steps
from finetune.training.recorder import RunJournal, load_checkpoint_weights
from finetune.training.setup import Prepared, assemble, cache_features
from finetune.training.state import Live, Progress
from finetune.training.summary import describe_run


def run(
    loaded: Loaded, task: Task, *, data: Any = None, fresh: bool = False, extend: bool = False
) -> RunFolder:
    """Train as `loaded` says, or go on where an earlier run of it stopped.

    Returns the folder of the finished run. `data` is a data set made in Python, in place of
    data.source. Raises FinetuneError for every fault that the user can mend: before a weight moves,
    where that is possible.
    """
    given = loaded.config
    clear_learned(task)
    check_optimizer(given.optim.name)
    check_trackers(given.output.trackers)
    if given.output.hub is not None:
        check_repository(given.output.hub)
    if given.output.license is not None:
        check_licence("output.license", given.output.license)
    state = this_process()
    console = Console(speaks=state.is_main_process)
    folder = RunFolder(Path(given.output.dir or default_folder(given, data)))
    check_free(folder)
    console.heading(f"{given.task.name} by method {given.method.name}, in {folder.path}")

    splits = open_splits(given.data, task, data)
    console.facts({"data": "\n".join([*loaded.notes, *splits.notes, splits.sizes])})
    digests = digest_splits(splits, task)
    going_on = folder.exists and not fresh
    held = check_same_run(folder, given, digests, extend=extend) if going_on else None
    state.wait_for_everyone()  # all have looked at the folder before one of them writes into it
    if held is not None and folder.finished and not extend:
        console.print(
            "this run is finished: --fresh (in Python fresh=True) replaces it, --extend with more "
            "epochs trains it longer"
        )
        show_results(folder, console)
        push_if_asked(folder, given, state.is_main_process)
        return folder

    with deterministic(given.train.deterministic):
        _train(given, held, task, splits, digests, folder, console, fresh=fresh)
    push_if_asked(folder, given, state.is_main_process)
    return folder


def clear_learned(task: Task) -> None:
    """Drop what an earlier run of this task learned: attributes that end in `_`."""
    for name in [name for name in vars(task) if name.endswith("_") and not name.startswith("_")]:
        delattr(task, name)
    task.resolved_ = task.config


def _train(
    given: RunConfig,
    held: RunConfig | None,
    task: Task,
    splits: Splits,
    digests: dict[str, str],
    folder: RunFolder,
    console: Console,
    *,
    fresh: bool,
) -> None:
    """From splits to final/. `held` is the config of the run that goes on, if one does."""
    precision, _ = choose_precision((held or given).train.precision, this_process().device)
    accelerator = make_accelerator(precision, given.output.trackers, folder.trackers)
    prepared = assemble(held or given, task, splits, accelerator)
    live, told = prepared.live, None
    if live.method.contrastive is not None:
        told = tune_backbone(live, None if fresh else folder.contrastive, console)
        prepared.notes.append(told)
    prepared = cache_features(prepared, console)
    console.facts(describe_run(prepared, splits).lines())
    if given.output.hub is not None and (note := note_missing_token(given.output.hub)):
        console.print(note)
    if accelerator.is_main_process:
        if fresh:  # not earlier: until here a fault would have cost the old run
            folder.clear()
        folder.begin(given, digests, environment(accelerator))
        folder.write_config(prepared.live.config)
        if told is not None:
            keep_backbone(live, told, folder.contrastive)
    accelerator.wait_for_everyone()

    with tracked(accelerator, folder.path, flatten(prepared.live.config)):
        journal = RunJournal(prepared.live, folder, console, prepared.validation)
        progress = resume(prepared.live, folder, console)
        select = selector(prepared.live.config, task)
        if progress.step == 0:
            evaluate_untrained(prepared, journal, select)
        fit(prepared.live, progress, journal, select)
        finish(prepared, progress, journal, splits)


def push_if_asked(folder: RunFolder, config: RunConfig, is_main_process: bool) -> None:
    """Push the final model if the config says so. Raises NotPushed; the run is finished then."""
    if config.output.hub is not None and is_main_process:
        push_finished(folder.path, config.output.hub)


def fit(
    live: Live,
    progress: Progress,
    journal: RunJournal,
    select: Callable[[dict[str, float]], float] | None,
) -> None:
    """Train by the loop, or solve the head to its optimum."""
    if not live.method.solves_head:
        journal.begin(progress.step)
        try:
            train_steps(live, progress, journal, select)
        finally:
            journal.console.stop_steps()
    elif progress.step == 0:
        # Rows that tuned the backbone are no judges of a strength: it is that of C = 1 then, as
        # for the head of SetFit.
        strength = 1 / len(live.train) if live.method.contrastive is not None else None
        found = solve_head(
            live.model, live.task, live.train, seed=live.config.train.seed, strength=strength
        )
        words = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        journal.console.print(f"solved: {words}")
        progress.step = 1
        journal.save(progress)


def resume(live: Live, folder: RunFolder, console: Console) -> Progress:
    """Load the newest good checkpoint into the model and the optimizer, if there is one."""
    checkpoint, faults = newest_good(folder.checkpoints)
    for fault in faults:
        console.print(fault)
    if live.accelerator.is_main_process and folder.metrics.is_file():
        # What is measured before the first step is measured again.
        folder.cut_history(checkpoint.step if checkpoint and checkpoint.step else -1)
    if checkpoint is None:
        return Progress()
    load_checkpoint_weights(live, checkpoint)
    load_optimizer(
        live.optimizer.optimizer, checkpoint.tensors("optimizer"), checkpoint.state["optimizer"]
    )
    if live.accelerator.scaler is not None and checkpoint.state["scaler"] is not None:
        live.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
    console.print(
        f"going on from step {checkpoint.step} of {live.total_steps} ({checkpoint.folder})"
    )
    progress = Progress(**checkpoint.state["progress"])
    if progress.step > live.total_steps:
        raise ConfigError(
            f"train: the run stands at step {progress.step}, behind the end of {live.total_steps} "
            "steps that is asked for; raise train.epochs or train.max_steps, or use --fresh"
        )
    # A run that is trained longer may have more patience than when an early stop ended it.
    patience = live.config.train.early_stopping
    progress.stopped = patience is not None and progress.stale >= patience
    if live.accelerator.is_main_process:
        folder.point(progress.step, progress.best_step, progress.best_value)
    return progress


def selector(config: RunConfig, task: Task) -> Callable[[dict[str, float]], float] | None:
    """What makes one evaluation better than another: a number that is larger for the better one."""
    if config.train.best == "last":
        return None
    name, direction = task.metric
    if config.train.best is not None:
        name, direction = config.train.best, "max"
        if name[0] in "+-":
            name, direction = name[1:], "min" if name[0] == "-" else "max"
        elif name == task.metric[0]:
            direction = task.metric[1]
        elif name.partition("/")[0] in ("loss", "rmse", "mae", "perplexity"):
            direction = "min"

    def select(metrics: dict[str, float]) -> float:
        if name not in metrics:
            raise ConfigError(
                f"train.best: evaluation gives no metric {name!r}; {nearest(name, metrics)}"
            )
        return metrics[name] if direction == "max" else -metrics[name]

    return select


def evaluate_untrained(
    prepared: Prepared, journal: RunJournal, select: Callable[[dict[str, float]], float] | None
) -> None:
    """Measure before the first step, so that the gain can be seen.

    A misspelt train.best fails here, not later.
    """
    split = prepared.validation or prepared.test
    if split is None:
        return
    evaluation = journal.evaluate_on(split, 0)
    metrics = evaluation.metrics
    if evaluation.predictions and prepared.live.accelerator.is_main_process:
        keep_untrained(journal.folder, split.name, evaluation.predictions)
    if select is not None:
        select(metrics)
    name = prepared.live.task.metric[0]
    journal.console.print(
        f"before training  {split.name}: loss {metrics['loss']:.4f}  "
        f"{name} {metrics.get(name, float('nan')):.4f}"
    )


def digest_splits(splits: Splits, task: Task) -> dict[str, str]:
    """A digest of the rows of each split: what they say and what they are labelled."""
    found, task_rows = {}, task.rows
    for name, rows in splits.named.items():
        digest = hashlib.sha256()
        for row in rows:
            told = repr((task_rows.identity(row), task_rows.truth(row)))
            digest.update(told.encode("utf-8", "surrogatepass"))
        found[name] = digest.hexdigest()
    return found


def default_folder(config: RunConfig, data: Any = None) -> str:
    """runs/<data>-<model>-<method>, of the last words of their names."""
    source = config.data.source or config.data.train
    if source is None and data is None:
        raise ConfigError(
            "data.source: no data is named; add data=FILE, a folder, a hub data set or pkg://..."
        )
    words = [
        _last_word(source or "data"),
        _last_word(config.model.name),
        _last_word(config.method.name.rpartition(":")[2]),
    ]
    return str(Path("runs") / "-".join(words))


def _last_word(reference: str) -> str:
    """The part of a reference that tells it from others: bbcnews of pkg://corpus/bbcnews/data."""
    vague = {"data", "model", "train", "dataset", "."}
    parts = [part for part in Path(reference.replace("://", "/")).parts if part.strip("/\\.")]
    telling = [part for part in parts if Path(part).stem not in vague]
    word = Path(telling[-1]).stem if telling else "data"
    return re.sub(r'[<>:"|?*\\/]+', "-", word)  # which Windows allows in no name
