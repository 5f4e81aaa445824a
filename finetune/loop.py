"""The training loop: one function, read top to bottom. It knows neither task nor method nor model.

Every number that it needs to go on is in `Progress`; order and randomness are functions of the
step.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from finetune.config import RunConfig
from finetune.data.loading import Split, load_batches, map_tensors, to_device
from finetune.data.plan import Piece, TrainPlan
from finetune.errors import FinetuneError
from finetune.methods import Method
from finetune.optim import FiniteGuard, rate_factor, set_rate
from finetune.task import Batch, Task, TransferModel


@dataclass
class Progress:
    """Where a run stands after `step` updates: JSON, saved with every checkpoint."""

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Evaluations since the best one."""
    stopped: bool = False
    """Whether early stopping has ended the run."""
    loss_sums: dict[str, list[float]] = field(default_factory=dict)
    """Of each term, by process, over the steps since the last line of the log."""
    loss_steps: int = 0


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


class Journal(Protocol):
    """What the loop tells, and to whom it leaves evaluating and saving."""

    @property
    def evaluates(self) -> bool: ...
    def log(self, step: int, values: dict[str, float]) -> None: ...
    def tick(self, step: int) -> None: ...
    def evaluate(self, step: int) -> dict[str, float]: ...
    def save(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...


class Interrupted(FinetuneError):  # noqa: N818 - no error, but an order that was followed
    """The run was asked to stop by a signal, and a checkpoint of the last whole step is on disk."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(
            f"stopped at step {step} by {signal.Signals(signal_number).name}; "
            "run the same command to go on"
        )
        self.exit_code = 128 + signal_number


def train(
    live: Live,
    progress: Progress,
    journal: Journal,
    select: Callable[[dict[str, float]], float] | None,
) -> None:
    """Train from `progress.step` to the last step, or until early stopping.

    `select` turns the metrics of an evaluation into a number that is larger for a better
    checkpoint; without it the last one is taken. Raises Interrupted after SIGTERM or SIGINT, with a
    checkpoint written, and FinetuneError before an update whose gradient is not finite.
    """
    config, accelerator, plan, device = (
        live.config.train,
        live.accelerator,
        live.plan,
        live.accelerator.device,
    )
    epoch_steps, rank = plan.steps_per_epoch, accelerator.process_index
    evaluate_every = epoch_steps if config.evaluate_every == "epoch" else config.evaluate_every
    save_every = epoch_steps if config.save_every == "epoch" else config.save_every
    trained = [parameter for group in live.optimizer.param_groups for parameter in group["params"]]
    live.method.unfreeze(live.model, progress.step / epoch_steps)
    wrapped = wrap(live)
    live.method.train_mode(live.model)
    stream = _stream(live, plan, progress.step)
    # Without a loss scaler the optimizer needs no wrapper; that of accelerate searches the import
    # path for a package at every step, which costs as much as a small update.
    optimizer = live.optimizer if accelerator.scaler else live.optimizer.optimizer
    guard = FiniteGuard(
        live.optimizer.optimizer, scaled=accelerator.scaler is not None, device=device
    )
    losses = _own_losses(progress, accelerator)
    samples, since = 0, time.perf_counter()

    with _Signals() as signals:
        while progress.step < live.total_steps and not progress.stopped:
            step = progress.step
            if live.method.unfreeze(live.model, step / epoch_steps):
                wrapped = wrap(
                    live
                )  # DDP reduces the gradients of what was trainable when it was built
                live.method.train_mode(live.model)

            # The micro-batches of this step, and what each loss term counts over all of them and
            # all processes.
            batches = [next(stream) for _ in plan.pieces(step, rank)]
            # Reading what was reduced makes a GPU wait, so several of them look for a signal on
            # logging steps only.
            look = (
                device.type == "cpu"
                or accelerator.num_processes == 1
                or step % config.log_every == 0
            )
            counts, stop = _global_counts(batches, signals.received, accelerator, look)
            if stop:
                guard.confirm(step)
                progress.loss_sums = _by_process(losses, accelerator)
                journal.save(progress)
                raise Interrupted(step, signals.received or signal.SIGTERM)

            # Forward and backward. Dropout is a function of seed, step and process.
            seed_dropout(seed_of(config.seed, step, rank), device)
            try:
                step_losses = _accumulate(live, wrapped, batches, counts)
            except RuntimeError as error:
                smaller = -(-min(plan.micro_batch, plan.batch_size) // 2)
                if (
                    not _is_out_of_memory(error)
                    or plan.micro_batch == 1
                    or accelerator.num_processes > 1
                ):
                    raise
                error.__traceback__ = None  # it holds the tensors of the failed pass
                plan = replace(plan, micro_batch=smaller)
                journal.note(f"step {step}: out of memory; micro-batches of {smaller} from here on")
                live.optimizer.zero_grad()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                stream = _stream(live, plan, step)
                continue

            # Clip, refuse what is not finite, update.
            accelerator.unscale_gradients()  # nothing is scaled but under fp16
            norm = clip_grad_norm_(trained, live.config.optim.max_grad_norm or math.inf)
            guard.check(norm, step)
            set_rate(live.optimizer, rate_factor(live.config.optim, step, live.total_steps))
            optimizer.step()
            optimizer.zero_grad()
            for term, value in step_losses.items():
                losses[term] = losses[term] + value if term in losses else value
            progress.step = step = step + 1
            progress.loss_steps += 1
            last = step == live.total_steps
            samples += plan.size(step - 1)
            lr = max(group["lr"] for group in live.optimizer.param_groups)
            journal.tick(step)

            if step % config.log_every == 0 or last:
                guard.confirm(step)
                mean = _mean_losses(losses, progress.loss_steps, accelerator)
                seconds = time.perf_counter() - since
                values = total_loss(mean) | {
                    "grad_norm": float(norm),
                    "lr": lr,
                    "epoch": step / epoch_steps,
                }
                journal.log(step, values | {"samples_per_second": samples / seconds})
                losses, progress.loss_steps = {}, 0
                samples, since = 0, time.perf_counter()

            improved = False
            if (
                journal.evaluates
                and evaluate_every != "never"
                and (step % evaluate_every == 0 or last)
            ):
                guard.confirm(step)
                paused = time.perf_counter()
                metrics = journal.evaluate(step)
                if select is not None:
                    improved = _note_evaluation(progress, select(metrics), config.early_stopping)
                live.method.train_mode(live.model)
                since += time.perf_counter() - paused

            ended = last or progress.stopped
            if improved or ended or (save_every != "never" and step % save_every == 0):
                guard.confirm(step)
                progress.loss_sums = _by_process(losses, accelerator)
                journal.save(progress)

        # A signal that came while the last step was measured and saved: what is left takes minutes.
        if _any_process(signals.received != 0, accelerator):
            raise Interrupted(progress.step, signals.received or signal.SIGTERM)


def wrap(live: Live) -> nn.Module:
    """The model as accelerate runs it: in mixed precision, and over processes where there are
    several.
    """
    accelerator = live.accelerator
    model = accelerator.unwrap_model(live.model, keep_fp32_wrapper=False)
    # What an earlier stage of unfreezing left: accelerate would take the model, now in full
    # precision, for prepared.
    accelerator._models.clear()
    vars(model).pop("_is_accelerate_prepared", None)
    return accelerator.prepare_model(model)  # type: ignore[no-any-return]


def _stream(live: Live, plan: TrainPlan, start: int) -> Iterator[tuple[Piece, Batch]]:
    """All batches of this process from step `start` on; one set of workers for the whole run."""
    rank = live.accelerator.process_index
    pieces = (piece for step in range(start, live.total_steps) for piece in plan.pieces(step, rank))
    config = live.config.train
    return load_batches(
        live.train,
        live.task,
        pieces,
        seed=config.seed,
        device=live.accelerator.device,
        workers=config.workers,
    )


def _global_counts(
    batches: list[tuple[Piece, Batch]], signalled: int, accelerator: Accelerator, look: bool
) -> tuple[dict[str, Tensor], bool]:
    """The count of each loss term over the whole step; whether a process was told to stop, if this
    step looks.
    """
    terms = list(batches[0][1]["count"])
    own = [
        sum(float(batch["count"][term]) for piece, batch in batches if not piece.filler)
        for term in terms
    ]
    vector = torch.tensor([*own, float(signalled != 0)])
    if accelerator.num_processes > 1:
        vector = accelerator.reduce(vector.to(accelerator.device), "sum")
    # A term without an item on this step has the sum 0, and 0 / tiny is 0.
    counts = {term: vector[place].clamp(min=1e-12) for place, term in enumerate(terms)}
    return counts, look and bool(vector[-1] > 0)


def _any_process(told: bool, accelerator: Accelerator) -> bool:
    flag = torch.tensor(float(told), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)


def _accumulate(
    live: Live, wrapped: nn.Module, batches: list[tuple[Piece, Batch]], counts: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient of a whole step; the loss terms of this process's share of it, over the global
    counts.
    """
    accelerator, losses = live.accelerator, dict[str, Tensor]()
    for place, (piece, batch) in enumerate(batches):
        last = place == len(batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
            batch = to_device(batch, accelerator.device)
            outputs = wrapped(batch)
            outputs = map_tensors(
                outputs, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor
            )
            weight = 0.0 if piece.filler else 1.0
            terms = {
                term: value * weight / counts[term]
                for term, value in live.task.loss(outputs, batch).items()
            }
            loss = torch.stack(list(terms.values())).sum()
            # A loss that is not finite spoils the gradient, whatever its derivative: all processes
            # see that in the norm, and none has to wait for a look at its own loss.
            loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
            # DDP takes the mean over processes, but the counts are of all of them: the sum is
            # wanted.
            accelerator.backward(loss * accelerator.num_processes)
        for term, value in terms.items():
            losses[term] = losses[term] + value.detach() if term in losses else value.detach()
    return losses


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU's allocator by its class, of others by their words."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _mean_losses(
    losses: dict[str, Tensor], steps: int, accelerator: Accelerator
) -> dict[str, float]:
    """The mean of each term over the steps since the last line of the log, of all processes."""
    vector = torch.stack(list(losses.values()))
    if accelerator.num_processes > 1:
        vector = accelerator.reduce(vector, "sum")
    return {term: value / steps for term, value in zip(losses, vector.tolist(), strict=True)}


def _by_process(losses: dict[str, Tensor], accelerator: Accelerator) -> dict[str, list[float]]:
    """The sum of each term on every process: only so does a resumed run log the same bits."""
    return {term: accelerator.gather(value.reshape(1)).tolist() for term, value in losses.items()}


def _own_losses(progress: Progress, accelerator: Accelerator) -> dict[str, Tensor]:
    """What `_by_process` gave of this process; on another number of processes, all of it on the
    first.
    """
    rank, device = accelerator.process_index, accelerator.device
    own = {}
    for term, sums in progress.loss_sums.items():
        same = len(sums) == accelerator.num_processes
        own[term] = torch.tensor(sums[rank] if same else sum(sums) * (rank == 0), device=device)
    return own


def total_loss(terms: dict[str, float]) -> dict[str, float]:
    """The sum of the loss terms, and each by name where there are several."""
    return {"loss": sum(terms.values())} | (
        {f"loss/{k}": v for k, v in terms.items()} if len(terms) > 1 else {}
    )


def _note_evaluation(progress: Progress, value: float, patience: int | None) -> bool:
    """Take an evaluation into account; True if it is the best so far. A value that is not a number
    is never best.
    """
    better = progress.best_value is None or value > progress.best_value
    if better and not math.isnan(value):
        progress.best_value, progress.best_step, progress.stale = value, progress.step, 0
        return True
    progress.stale += 1
    progress.stopped = patience is not None and progress.stale >= patience
    return False


def seed_of(*position: int) -> int:
    """A seed that is a function of a position, without pattern over neighbouring positions."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from.

    torch.manual_seed also asks every other kind of device, and formats a stack for each: 0.3 ms.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class _Signals:
    """Notes SIGTERM and SIGINT while it is entered, so that a step is never cut in half. A second
    SIGINT is obeyed.
    """

    def __enter__(self) -> _Signals:
        self.received = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
