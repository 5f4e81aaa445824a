"""Logging, evaluation and checkpointing for the training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import accelerate
from accelerate.utils import broadcast

from finetune.batching.data_loader import Split
from finetune.config.best_metric import WORST_GROUP, selected_metric
from finetune.config.yaml import flatten
from finetune.distributed.fsdp import gather, unsharded
from finetune.errors import FinetuneError
from finetune.inference.evaluation_loop import Evaluation, evaluate_split
from finetune.io.checkpoint import (
    Checkpoint,
    changed_tensors,
    load_changed_tensors,
    optimizer_tensors,
    remove_old_checkpoints,
    save_checkpoint,
)
from finetune.io.run_folder import RunFolder
from finetune.model import nonfinite_fault
from finetune.optim.optimizers import trained_names
from finetune.optim.unusual_values import divergence_remedy
from finetune.reporting.console import Console
from finetune.reporting.trackers import track
from finetune.robustness.row_groups import (
    RowGroups,
    find_groups,
    group_metrics,
    worst_group_metrics,
)
from finetune.task_parts.samples import Prediction
from finetune.training.state import Live, Progress, TrialHooks

UNTRAINED = "untrained.json"
# Rows whose predictions before and after training are compared side by side.
COMPARED = 40


class RunJournal:
    """Journal of one run, written to its folder, its trackers and the console.

    `started` is the time at which this process began to set up the run (time.perf_counter);
    `hooks` are those of a search.
    """

    def __init__(
        self,
        live: Live,
        folder: RunFolder,
        console: Console,
        validation: Split | None,
        started: float | None = None,
        hooks: TrialHooks | None = None,
    ) -> None:
        self.live = live
        self.folder = folder
        self.console = console
        self.validation = validation
        self.hooks = hooks
        self._writes = live.accelerator.is_main_process
        self._begun = (0, time.perf_counter())
        self._started = self._begun[1] if started is None else started
        self._earlier = 0.0
        """Seconds up to the checkpoint that a resumed run began from."""
        self._first: dict[str, float] = {}
        """Metrics before training; empty in a resumed run."""
        self._printed_notes: set[str] = set()
        self._groups: dict[str, RowGroups] = {}
        self.by_group: dict[str, dict[str, dict[str, float]]] = {}
        """{split: {group: metrics}} of the last evaluation of each split, under train.group_by."""

    @property
    def evaluates(self) -> bool:
        """True if there is a split to evaluate on during training."""
        return self.validation is not None

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken so far, its setup and earlier starts included."""
        return self._earlier + time.perf_counter() - self._started

    def begin(self, step: int) -> None:
        """Start the clock and the progress bar at the first step of this process."""
        times = [line["seconds"] for line in self.folder.history() if "seconds" in line]
        self._earlier = times[-1] if times else 0.0
        self._begun = (step, time.perf_counter())
        self.console.start_steps(step, self.live.total_steps)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._append("train", step, values | {"seconds": round(self.seconds, 3)})
        first, start = self._begun
        seconds_per_step = (time.perf_counter() - start) / max(step - first, 1)
        total = self.live.total_steps
        self.console.log(step, total, values, seconds_per_step * (total - step))

    def tick(self, step: int) -> None:
        self.console.tick(step)

    def note(self, text: str) -> None:
        self.console.print(text)

    def evaluate(self, step: int) -> dict[str, float]:
        assert self.validation is not None
        evaluation = self.evaluate_on(self.validation, step)
        metrics = evaluation.metrics
        self.show(f"step {step}/{self.live.total_steps}", self.validation.name, metrics)
        if remark := self.live.task.views.remark(evaluation.stats, metrics, self._first):
            self.console.print(remark)
        if self.hooks is not None:
            self.hooks.evaluated(self.live, self.folder, step, metrics)
        return metrics

    def show(self, place: str, split: str, metrics: Mapping[str, float]) -> None:
        """Print the loss, the metric of the task, and the one that selects the checkpoint."""
        live = self.live
        best = live.config.train.best
        selected = selected_metric(best, live.task.metric, live.task.views.metric_names())
        names = dict.fromkeys(["loss", live.task.metric[0], *(selected or ())[:1]])
        words = "  ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
        self.console.print(f"{place}  {split}: {words}")

    def evaluate_on(self, split: Split, step: int) -> Evaluation:
        """Evaluate on any split and append the metrics to the history."""
        evaluation = self.measure(split)
        self._append(split.name, step, evaluation.metrics)
        if step == 0:
            self._first = evaluation.metrics
        return evaluation

    def measure(self, split: Split) -> Evaluation:
        """Evaluate on any split."""
        live = self.live
        broadcast_buffers(live)
        block, workers = evaluation_block(live), live.config.train.workers or 0
        averages = live.ema.in_place() if live.ema is not None else contextlib.nullcontext()
        work = self.console.during(f"evaluating on {split.name}")
        with work, averages, unsharded(live.model):
            evaluation = evaluate_split(
                live.model, live.task, split, live.accelerator, block=block, workers=workers
            )
        evaluation = self.with_worst_group(split, evaluation)
        note = evaluation.undefined_note(split.name)
        if note and note not in self._printed_notes:
            self._printed_notes.add(note)
            self.console.print(note)
        return evaluation

    def with_worst_group(self, split: Split, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation with the metrics of the worst group under train.group_by."""
        live, column = self.live, self.live.config.train.group_by
        if column is None:
            return evaluation
        if split.name not in self._groups:
            self._groups[split.name] = find_groups(split.rows, live.task, column)
        directions = dict([live.task.metric])
        known = live.task.views.metric_names()
        selected = selected_metric(live.config.train.best, live.task.metric, known)
        if selected is not None and selected[0].startswith(WORST_GROUP):
            directions[selected[0].removeprefix(WORST_GROUP)] = selected[1]
        groups = self._groups[split.name]
        by_group = group_metrics(evaluation.stats, groups, live.task, directions)
        self.by_group[split.name] = by_group
        worst = worst_group_metrics(by_group, directions)
        return replace(evaluation, metrics=evaluation.metrics | worst)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint with all that resuming needs; update last.json and best.json.

        Raises FinetuneError for weights that are not finite, of which nothing is written.
        """
        live = self.live
        tensors, rest = optimizer_tensors(live.optimizer.optimizer)
        named = {
            "model": changed_tensors(live.model.network, trained_names(live.optimizer)),
            "optimizer": tensors,
            **({"ema": live.ema.tensors()} if live.ema is not None else {}),
        }
        gathered = {name: gather(value, keep=self._writes) for name, value in named.items()}
        if self._writes:
            if fault := nonfinite_fault(live.model, gathered["model"]):
                raise FinetuneError(
                    f"step {progress.step}: after the update, {fault}; no checkpoint is written. "
                    + divergence_remedy(flatten(live.config), live.total_steps)
                )
            scaler = live.accelerator.scaler
            state = {
                "progress": asdict(progress),
                "optimizer": rest,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "processes": live.accelerator.num_processes,
            }
            root, step, best = self.folder.checkpoints, progress.step, progress.best_step
            self.folder.sync_history()
            save_checkpoint(root, step, gathered, state)
            self.folder.remove_replaced()
            self.folder.point(step, best, progress.best_value)
            remove_old_checkpoints(root, live.config.train.keep_checkpoints, step=step, best=best)
        live.accelerator.wait_for_everyone()
        if self.hooks is not None:
            self.hooks.saved()

    def _append(self, split: str, step: int, values: Mapping[str, float]) -> None:
        if self._writes:
            self.folder.append({"step": step, "split": split, **values})
            if fault := track(self.live.accelerator, split, step, values):
                self.console.print(fault)


def load_checkpoint_weights(live: Live, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's trained weights into the model, and its averages into the EMA."""
    names, tensors = trained_names(live.optimizer), checkpoint.tensors("model")
    load_changed_tensors(live.model.network, names, tensors, checkpoint.folder)
    if live.ema is not None:
        live.ema.load(checkpoint.tensors("ema"), str(checkpoint.folder))


def evaluation_block(live: Live) -> int:
    """Rows per evaluation batch: a training micro-batch, at most 64, on any number of processes."""
    return min(live.config.train.micro_batch or live.config.train.batch_size, 64)


def broadcast_buffers(live: Live) -> None:
    """Broadcast the first process's buffers: BatchNorm statistics differ between processes."""
    accelerator: accelerate.Accelerator = live.accelerator
    if accelerator.num_processes > 1:
        for buffer in live.model.buffers():
            buffer.copy_(broadcast(buffer.contiguous()))


def save_untrained(folder: RunFolder, split: str, predictions: Sequence[Prediction]) -> None:
    """Save some predictions from before the first step, for comparison with the final ones."""
    (folder.path / "reports" / split).mkdir(parents=True, exist_ok=True)
    folder.write(f"reports/{split}/{UNTRAINED}", {"predictions": list(predictions[:COMPARED])})
