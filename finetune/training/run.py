"""One training run from its config to final/, resumed where an earlier one stopped."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.batching.data_loader import Split
from finetune.batching.shared_rows import SharedRows
from finetune.checks.before_training import open_checked_splits
from finetune.checks.feature_leaks import feature_leak_note
from finetune.checks.stored_splits import keep_splits, recall_splits, splits_key
from finetune.config.best_metric import WORST_GROUP, selected_metric
from finetune.config.conflicts import check_conflicts
from finetune.config.loading import Loaded
from finetune.config.retired import keys_before
from finetune.config.schema import RunConfig
from finetune.config.text_files import validate_as
from finetune.config.yaml import flatten
from finetune.data.opening import Splits
from finetune.distributed.fsdp import unsharded
from finetune.distributed.launch import deterministic, environment, make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import CheckpointError, ConfigError, format_count, nearest
from finetune.export.hub import check_hub_keys, note_missing_token, push_finished
from finetune.inference.evaluation_loop import Evaluation, evaluate_split
from finetune.io.checkpoint import Checkpoint, find_latest_checkpoint, load_optimizer
from finetune.io.run_folder import RunFolder, check_flags, check_free
from finetune.io.run_identity import RunIdentity, check_same_run, claim_folder, default_folder
from finetune.io.state_shapes import CheckpointState
from finetune.optim.optimizers import check_optimizer
from finetune.registry import make_method
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import show_results
from finetune.reporting.trackers import check_trackers, track_run
from finetune.reports.disparities import NO_LABELS
from finetune.reports.slices import check_report_columns
from finetune.robustness.row_groups import check_group_column
from finetune.task import Task
from finetune.task_parts.samples import take_rows
from finetune.training.contrastive import save_backbone, tune_backbone
from finetune.training.linear_solver import solve_head
from finetune.training.loop import train_steps
from finetune.training.recorder import RunJournal, load_checkpoint_weights, save_untrained
from finetune.training.setup import (
    Prepared,
    add_synthetic_rows,
    assemble,
    cache_features,
    join_unlabeled,
    settle_attention,
)
from finetune.training.state import Live, Progress, TrialHooks
from finetune.training.summary import describe_run


def run(
    loaded: Loaded,
    task: Task,
    *,
    data: Any = None,
    fresh: bool = False,
    extend: bool = False,
    hooks: TrialHooks | None = None,
    shared: SharedRows | None = None,
    console: Console | None = None,
) -> RunFolder:
    """Train as configured, or resume an earlier run in the same folder.

    Returns the folder of the finished run. `data` is a dataset made in Python, in place of
    data.source. `hooks`, `console` and `shared`, the work that its runs in this process have in
    common, are those of a search. Raises FinetuneError for every fault that the user can fix, where
    possible before any weight changes.
    """
    config = loaded.config
    check_flags(fresh=fresh, extend=extend)
    clear_learned(task)
    check_settings(config)
    state = this_process()
    console = console or Console(enabled=state.is_main_process)
    default = default_folder(config, data) if config.output.dir is None else Path()
    shared = shared or SharedRows()
    splits = read_splits(config, task, data, console, shared)
    check_split_keys(config, splits, task)
    identity = RunIdentity(config, splits.digests, extend, loaded.origins)
    if hooks is not None:
        splits = replace(splits, test=None)
        if splits.validation is None:
            raise ConfigError(
                "data.validation: a search ranks its trials by a validation split, and there is "
                "none; set data.validation=0.1, or name a file or a split"
            )
    with claim_folder(identity, default, is_main=state.is_main_process) as (folder, note):
        console.heading(
            f"{config.task.name} with method={config.method.name}, output in {folder.path}"
        )
        if note:
            console.print(note)
        console.facts({"data": "\n".join([*loaded.notes, *splits.notes, splits.sizes])})
        _run_in(folder, identity, task, splits, console, shared, fresh=fresh, hooks=hooks)
        if config.output.report and hooks is None:
            report_if_due(folder, config, splits, console)
        push_if_asked(folder, config, state.is_main_process)
    return folder


def _run_in(
    folder: RunFolder,
    identity: RunIdentity,
    task: Task,
    splits: Splits,
    console: Console,
    shared: SharedRows,
    *,
    fresh: bool,
    hooks: TrialHooks | None,
) -> None:
    """Train in a folder that is locked, unless the run in it is finished."""
    state = this_process()
    if state.is_main_process:
        folder.undo_replacement()
    state.wait_for_everyone()
    check_free(folder)
    resumed = check_same_run(folder, identity) if folder.exists and not fresh else None
    if resumed is not None:
        # The rows of a run of an earlier version are still formatted as when it started.
        task.settle({k: v for k, v in keys_before(resumed.task).items() if v is not None})
    state.wait_for_everyone()  # all processes must check the folder before one writes to it
    if resumed is not None and folder.finished and not identity.extend:
        console.print(
            "this run is already finished; use --fresh (fresh=True in Python) to start over, or "
            "--extend with more epochs to train longer"
        )
        show_results(folder, console)
        return
    with deterministic(identity.given.train.deterministic):
        _train(identity, resumed, task, splits, folder, console, shared, fresh=fresh, hooks=hooks)


def check_settings(config: RunConfig) -> None:
    """Raise FinetuneError for a fault of a run that shows before the rows are read."""
    check_optimizer(config.optim.name)
    check_conflicts(config, make_method(config.method))
    check_trackers(config.output.trackers)
    if config.output.report:
        from finetune.audit.report_page import load_template

        load_template()  # raises if its library is missing, before the run and not after it
    check_hub_keys(config.output)
    if config.output.dir is not None:
        check_free(RunFolder(Path(config.output.dir)))


def check_split_keys(config: RunConfig, splits: Splits, task: Task) -> None:
    """Raise FinetuneError for keys that want a split or a column that there is not."""
    if config.output.calibrate == "temperature" and splits.validation is None:
        raise ConfigError(
            "output.calibrate=temperature: is fitted to a validation split, and there is none; set "
            "data.validation=0.1, or name a file or a split"
        )
    if config.task.learns_thresholds and splits.validation is None:
        raise ConfigError(
            "task.threshold=auto: is learned from a validation split, and there is none; set "
            "data.validation=0.1, or name a file or a split"
        )
    check_report_columns(config.report, splits.test or splits.validation, task.rows)
    for rows in splits.named.values():
        check_group_column(config.train.group_by, rows.column_names)


def clear_learned(task: Task) -> None:
    """Drop what an earlier run taught this task object: attributes that end in `_`."""
    for name in [name for name in vars(task) if name.endswith("_") and not name.startswith("_")]:
        delattr(task, name)
    task.resolved_ = task.config


def _train(
    identity: RunIdentity,
    resumed: RunConfig | None,
    task: Task,
    splits: Splits,
    folder: RunFolder,
    console: Console,
    shared: SharedRows,
    *,
    fresh: bool,
    hooks: TrialHooks | None,
) -> None:
    """Train from splits to final/; `resumed` is the stored config of a run to resume, if any."""
    started, config = time.perf_counter(), identity.given
    precision, _ = choose_precision((resumed or config).train.precision, this_process().device)
    accelerator = make_accelerator(precision, config.output.trackers, folder.trackers)
    with console.during("loading the network and encoding the rows"):
        prepared = assemble(resumed or config, task, splits, accelerator, shared)
    live, tuning_note = prepared.live, None
    if live.method.contrastive is not None:
        tuning_note = tune_backbone(live, None if fresh else folder.contrastive, console)
        prepared.notes.append(tuning_note)
    prepared = cache_features(prepared, console)
    for note in feature_leak_notes(prepared, splits):
        console.print(note)
    prepared = join_unlabeled(prepared, splits, console)
    with console.during("making synthetic rows"):
        prepared = add_synthetic_rows(prepared)
    with console.during("measuring which attention is faster"):
        prepared = settle_attention(prepared)
    console.facts(describe_run(prepared).lines())
    if config.output.hub is not None and (note := note_missing_token(config.output.hub)):
        console.print(note)
    if identity.extend and folder.exists:
        last, _ = find_latest_checkpoint(folder.checkpoints)
        _check_length(last.step if last else 0, live)  # only now: a fault must not cost the results
    accelerator.wait_for_everyone()  # all processes must have looked before one writes
    if accelerator.is_main_process:
        if fresh and folder.exists:  # only now: a fault above must not cost the old run
            folder.set_aside()
            console.print(f"earlier run: in {folder.replaced} until this one has a checkpoint")
        folder.begin(config, identity.digests, environment(accelerator), identity.were_set)
        folder.write_config(prepared.live.config)
        if tuning_note is not None:
            save_backbone(live, tuning_note, folder.contrastive)
    accelerator.wait_for_everyone()

    with track_run(accelerator, folder.path, flatten(prepared.live.config)):
        journal = RunJournal(prepared.live, folder, console, prepared.validation, started, hooks)
        progress = resume(prepared.live, folder, console)
        select = selector(prepared.live.config, task)
        if progress.step == 0:
            evaluate_untrained(prepared, journal, select)
        fit(prepared.live, progress, journal, select)
        # Imported for a trained model only: calibration and the reports take half a second.
        from finetune.training.finalize import finalize_run

        finalize_run(prepared, progress, journal, splits)


def report_if_due(folder: RunFolder, config: RunConfig, splits: Splits, console: Console) -> None:
    """Write the report of a finished run, unless there is one of these results."""
    # Only runs that write a report import its parts, Matplotlib among them.
    from finetune.audit.report_page import PAGE
    from finetune.audit.report_run import write_report

    page, results = folder.path / "reports" / PAGE, folder.path / "results.json"
    if page.is_file() and page.stat().st_mtime_ns >= results.stat().st_mtime_ns:
        return
    if not {"test", "validation"} & splits.named.keys():
        console.print("report: not written, since no rows were held out")
        return
    code = config.task.name
    has_run = ":" in code or config.model.trust_remote_code  # what the run itself has imported
    write_report(str(folder.path), None, None, console, splits=splits, trust_code=has_run)


def feature_leak_notes(prepared: Prepared, splits: Splits) -> list[str]:
    """Return new notes on held-out rows that are nearly those of train, and add them to the data's.

    The rows are known to earlier trials of a search, which have noted the same.
    """
    found = [
        feature_leak_note(
            prepared.live.train,
            split,
            split.numbers(splits.numbers[split.name]),
            splits.leaked.get(split.name, ()),
        )
        for split in prepared.held_out
    ]
    notes = [note for note in found if note and note not in splits.notes]
    splits.notes.extend(notes)
    return notes


def push_if_asked(folder: RunFolder, config: RunConfig, is_main_process: bool) -> None:
    """Push the final model if output.hub is set. Raises NotPushed; the run itself is finished."""
    if config.output.hub is not None and is_main_process:
        push_finished(folder.path, config.output.hub)


def fit(
    live: Live,
    progress: Progress,
    journal: RunJournal,
    select: Callable[[dict[str, float]], float] | None,
) -> None:
    """Train with the loop, or solve the head exactly."""
    if not live.method.solves_head:
        journal.begin(progress.step)
        try:
            train_steps(live, progress, journal, select)
        finally:
            journal.console.stop_steps()
    elif progress.step == 0:
        # Cross-validation is biased on rows that also tuned the backbone. Use the strength of
        # scikit-learn's C = 1 then, as SetFit does for its head.
        strength = 1 / len(live.train) if live.method.contrastive is not None else None
        solution = solve_head(
            live.model,
            live.task,
            live.train,
            seed=live.config.train.seed,
            strength=strength,
            classes=live.plan.classes,
        )
        words = ", ".join(f"{name} {value:.4g}" for name, value in solution.items())
        journal.console.print(f"exact solution: {words}")
        progress.step = 1
        journal.save(progress)


def resume(live: Live, folder: RunFolder, console: Console) -> Progress:
    """Load the newest good checkpoint into the model and the optimizer, if there is one."""
    checkpoint, faults = find_latest_checkpoint(folder.checkpoints)
    for fault in faults:
        console.print(fault)
    if live.accelerator.is_main_process and folder.metrics.exists():
        # A run without a step to resume from repeats its evaluation before training.
        folder.cut_history(checkpoint.step if checkpoint and checkpoint.step else -1)
    if checkpoint is None:
        return Progress()
    progress = _read_progress(checkpoint)
    load_checkpoint_weights(live, checkpoint)
    load_optimizer(
        live.optimizer.optimizer,
        checkpoint.tensors("optimizer"),
        checkpoint.state["optimizer"],
        checkpoint.folder,
    )
    if live.accelerator.scaler is not None and checkpoint.state["scaler"] is not None:
        live.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
    console.print(
        f"resuming from step {checkpoint.step} of {live.total_steps} ({checkpoint.folder})"
    )
    _check_length(progress.step, live)
    # An extended run may have more patience than the one that early stopping ended.
    patience = live.config.train.early_stopping
    progress.stopped = patience is not None and progress.stale >= patience
    if live.accelerator.is_main_process:
        folder.point(progress.step, progress.best_step, progress.best_value)
    return progress


def _check_length(step: int, live: Live) -> None:
    """Raise ConfigError if a run is at a step beyond those that it is to have."""
    if step > live.total_steps:
        raise ConfigError(
            f"train: the run is at step {step} already, past the requested total of "
            f"{live.total_steps} steps; raise train.epochs or train.max_steps, or use --fresh"
        )


def _read_progress(checkpoint: Checkpoint) -> Progress:
    """Return the progress in a checkpoint's state. Raises CheckpointError if it is damaged."""
    try:
        validate_as(CheckpointState, checkpoint.state)
        progress: Progress = validate_as(Progress, checkpoint.state["progress"])
        if progress.step != checkpoint.step:
            raise ValueError(f"step: {progress.step}, and the checkpoint is of {checkpoint.step}")
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.folder / 'state.json'}: cannot be used ({error}); remove "
            f"{checkpoint.folder} to resume from an older checkpoint, or use --fresh to start over"
        ) from error
    return progress


def selector(config: RunConfig, task: Task) -> Callable[[dict[str, float]], float] | None:
    """Return the score by which evaluations are compared (larger is better); None for best=last."""
    known = task.views.metric_names()
    selected = selected_metric(config.train.best, task.metric, known)
    if selected is None:
        return None
    name, direction = selected

    def select(metrics: dict[str, float]) -> float:
        if name not in metrics and name.removeprefix(WORST_GROUP) not in known:
            raise ConfigError(f"train.best: unknown metric {name!r}; {nearest(name, metrics)}")
        value = metrics.get(name, math.nan)  # undefined on these rows: never the best
        return value if direction == "max" else -value

    return select


def evaluate_untrained(
    prepared: Prepared, journal: RunJournal, select: Callable[[dict[str, float]], float] | None
) -> None:
    """Evaluate before the first step, as a baseline; a misspelled train.best fails here.

    A run that trains on fewer rows than the split has gets no baseline, which would be a quarter of
    its time or more: one row is evaluated, for the faults.
    """
    split, live = prepared.validation or prepared.test, prepared.live
    if split is None:
        return
    trained = live.total_steps * live.plan.batch_size
    if split.features is None and trained < len(split):
        shortest = _evaluate_shortest(live, split)
        _check_evaluation(live, shortest)
        if select is not None:
            prefixes = ["", WORST_GROUP] if live.config.train.group_by is not None else [""]
            names = [*shortest.metrics, *shortest.undefined]
            select({prefix + name: math.nan for prefix in prefixes for name in names})
        journal.note(
            f"before training  {split.name}: not evaluated, since it has "
            f"{format_count(len(split), 'row')} and this run trains on {trained}"
        )
        return
    evaluation = journal.evaluate_on(split, 0)
    _check_evaluation(live, evaluation)
    if select is not None:
        select(evaluation.metrics)
    if evaluation.predictions and live.accelerator.is_main_process:
        save_untrained(journal.folder, split.name, evaluation.predictions)
    journal.show("before training", split.name, evaluation.metrics)


def _evaluate_shortest(live: Live, split: Split) -> Evaluation:
    """Evaluate the shortest row of a split."""
    index = int(split.lengths.argmin())
    rows: Any = take_rows(split.rows, [index])
    shortest = Split(split.name, rows, split.lengths[[index]])
    with unsharded(live.model):
        return evaluate_split(live.model, live.task, shortest, live.accelerator, block=1)


def _check_evaluation(live: Live, evaluation: Evaluation) -> None:
    """Raise ConfigError for what the config asks of an evaluation and this one does not have."""
    config = live.config
    has_labels = live.task.views.label_scores(evaluation.stats) is not None
    if config.output.calibrate == "temperature" and not has_labels:
        raise ConfigError(
            "output.calibrate=temperature: this task predicts no probabilities of labels; leave it "
            "out"
        )
    if config.report.groups and not has_labels:
        raise ConfigError(NO_LABELS)


def read_splits(
    config: RunConfig, task: Task, data: Any, console: Console, shared: SharedRows
) -> Splits:
    """Open, check and digest the splits of a run, or recall those of the same files."""

    def read() -> Splits:
        before = dict(vars(task))
        content = splits_key(config.data, task) if data is None else None
        if content is not None and (known := recall_splits(content, task)) is not None:
            return known
        with console.during("reading and checking the rows"):
            splits = open_checked_splits(config.data, task, data)
        with console.during("hashing the rows"):
            splits = replace(splits, digests=digest_splits(splits, task))
        return splits if content is None else keep_splits(content, task, before, splits)

    key = (config.data.model_dump_json(), config.task.model_dump_json(), "rows")
    return shared.once(key, task, read)


def digest_splits(splits: Splits, task: Task) -> dict[str, str]:
    """Return a SHA-256 of each split's rows: their inputs and their labels."""
    digests, task_rows = {}, task.rows
    for name, rows in splits.named.items():
        identities, truths = task_rows.identities_of(rows), task_rows.truths_of(rows)
        digests[name] = _digest(zip(identities, truths, strict=True))
    if splits.unlabeled is not None:
        digests["unlabeled"] = _digest(task_rows.identities_of(splits.unlabeled))
    return digests


def _digest(contents: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(repr(content).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
