"""The training loop: one function, read top to bottom, agnostic to task, method and model.

A step fetches its micro-batches, accumulates their gradients, clips, updates, and then logs,
evaluates and saves where that is due. A run may stop after any step and resume bit for bit: the
loop's own state is all in `Progress`, and data order and randomness are functions of the step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch, TrainPlan
from finetune.config.yaml import flatten
from finetune.distributed.compilation import compiled_blocks, compiles_on
from finetune.distributed.devices import as_float32, to_device
from finetune.distributed.fsdp import is_sharded
from finetune.distributed.positional_dropout import PositionalDropout, seeded_dropout
from finetune.distributed.precision import cast_once
from finetune.distributed.signals import Interrupted, Signals
from finetune.model import Batch, head_weights
from finetune.optim.gradient_guard import FiniteGuard, clip_gradients
from finetune.optim.optimizers import add_l1_gradient, trained_parameters
from finetune.optim.schedules import logged_rate, rate_factor, set_rate
from finetune.optim.sparse_gradients import large_tables, sparse_lookups
from finetune.optim.unusual_values import divergence_remedy
from finetune.robustness.group_dro import GroupDro
from finetune.training.losses import RunningLoss, global_counts
from finetune.training.state import Journal, Live, Progress


def train_steps(
    live: Live,
    progress: Progress,
    journal: Journal,
    select: Callable[[dict[str, float]], float] | None,
) -> None:
    """Train from `progress.step` to the last step, or until early stopping.

    `select` maps the metrics of an evaluation to a score, larger is better; without it the last
    checkpoint is the selected one. Raises Interrupted on SIGTERM or SIGINT, after a checkpoint is
    written, and FinetuneError for a non-finite gradient, before it reaches the weights.
    """
    config, optim, plan = live.config.train, live.config.optim, live.plan
    accelerator, device = live.accelerator, live.accelerator.device
    epoch_steps, rank = plan.steps_per_epoch, accelerator.process_index
    evaluate_every = epoch_steps if config.evaluate_every == "epoch" else config.evaluate_every
    save_every = epoch_steps if config.save_every == "epoch" else config.save_every
    trained = [parameter for _, parameter in trained_parameters(live.optimizer)]
    penalized = head_weights(live.model) if optim.l1_head else []
    # A resumed run starts in its own stage of gradual unfreezing, which DDP must see when wrapped.
    live.method.unfreeze(live.model, progress.step / epoch_steps)
    wrapped = wrap_model(live)
    live.method.train_mode(live.model)
    stream = _stream(live, plan, progress.step)
    # Only loss scaling (fp16) needs accelerate's optimizer wrapper. Otherwise bypass it: on every
    # step it probes the import path for an optional package, at the cost of a small update.
    is_scaled = accelerator.scaler is not None
    optimizer = live.optimizer if is_scaled else live.optimizer.optimizer
    remedy = divergence_remedy(flatten(live.config), live.total_steps)
    guard = FiniteGuard(live.optimizer.optimizer, scaled=is_scaled, device=device, remedy=remedy)
    running, dro = RunningLoss(progress, accelerator), _group_dro(live, progress)
    samples, since = 0, time.perf_counter()

    # Cast frozen weights to the compute dtype once, not in every forward pass.
    narrow = cast_once(live.model, accelerator.mixed_precision, trained)
    compiled = compiled_blocks(live.model, wanted=config.compile and compiles_on(device))
    # Several processes exchange dense gradients.
    is_alone = device.type == "cpu" and accelerator.num_processes == 1
    tables = large_tables(live.model) if is_alone else []
    with Signals() as signals, narrow, compiled:
        while progress.step < live.total_steps and not progress.stopped:
            step = progress.step
            if live.method.unfreeze(live.model, step / epoch_steps):
                # DDP only reduces gradients of parameters that were trainable when it was built.
                wrapped = wrap_model(live)
                live.method.train_mode(live.model)
                tables = large_tables(live.model) if is_alone else []

            # Data: the micro-batches of this step, and the count of each loss term over all of them
            # on all processes (of each group, under group DRO). The gradient is that of sum /
            # count, so neither accumulation nor the number of processes changes it. Fillers, which
            # keep processes in step, weigh 0.
            batches = [next(stream) for _ in plan.micro_batches(step, rank)]
            terms, groups = list(batches[0][1]["count"]), 1 if dro is None else len(dro.weights)
            stops = signals.received != 0
            counts, stopping = global_counts(batches, terms, groups, stops, accelerator)
            # Graceful shutdown: the signal flag is reduced along with the counts, so all processes
            # stop at the same step. Reading it synchronizes a GPU with the host, so multi-GPU runs
            # check on logging steps only.
            reads_flag = device.type == "cpu" or accelerator.num_processes == 1
            if (reads_flag or step % config.log_every == 0) and bool(stopping > 0):
                progress.skipped += guard.confirm(step)
                _store(running, dro)
                journal.save(progress)
                raise Interrupted(step, signals.received)

            # Forward and backward. When memory runs out, the step is redone from its start with
            # micro-batches of half the size.
            try:
                with sparse_lookups(tables):
                    losses = _accumulate(live, wrapped, batches, counts, dro)
            except RuntimeError as error:
                if not _can_retry(error, plan, accelerator):
                    raise
                error.__traceback__ = None  # its frames keep the tensors of the failed pass alive
                half = -(-min(plan.micro_batch_size, plan.batch_size) // 2)
                plan = replace(plan, micro_batch_size=half)
                journal.note(f"step {step}: out of memory; micro-batches of {half} from here on")
                optimizer.zero_grad()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                stream = _stream(live, plan, step)
                continue

            # Update: clip by the global norm; a non-finite gradient never reaches the weights.
            accelerator.unscale_gradients()  # no-op except under fp16
            add_l1_gradient(penalized, optim.l1_head)
            norm = clip_gradients(live.optimizer.optimizer, trained, optim.max_grad_norm)
            guard.check(norm, step)
            set_rate(live.optimizer, rate_factor(optim, step, live.total_steps))
            optimizer.step()
            optimizer.zero_grad()
            running.add(losses)
            if dro is not None:
                dro.update()
            samples += plan.size(step)
            progress.step = step = step + 1
            if live.ema is not None:
                live.ema.update(step)
            is_last = step == live.total_steps
            journal.tick(step)

            # Log, evaluate, save: a fused optimizer skips a bad update on the device. Finding out
            # synchronizes with the host, so ask only before something is reported or stored.
            logs = step % config.log_every == 0 or is_last
            evaluates = journal.evaluates and _is_due(evaluate_every, step, is_last)
            saves = _is_due(save_every, step, is_last)
            if logs or evaluates or saves:
                progress.skipped += guard.confirm(step)

            if logs:
                values = running.take() | {
                    "lr": logged_rate(live.optimizer, optim),
                    "epoch": step / epoch_steps,
                }
                # Non-finite only where the loss scaler skipped the update.
                values |= {"grad_norm": float(norm)} if bool(norm.isfinite()) else {}
                values |= {"skipped": progress.skipped} if is_scaled else {}
                seconds = time.perf_counter() - since
                journal.log(step, values | {"samples_per_second": samples / seconds})
                samples, since = 0, time.perf_counter()

            improved = False
            if evaluates:
                paused = time.perf_counter()
                metrics = journal.evaluate(step)
                if select is not None:
                    value, loss = select(metrics), metrics["loss"]
                    improved = progress.note_evaluation(value, loss, config.early_stopping)
                live.method.train_mode(live.model)
                since += time.perf_counter() - paused  # samples/s excludes evaluation

            if saves or improved or is_last or progress.stopped:
                _store(running, dro)
                journal.save(progress)

        # A signal during the last step's evaluation or save: stop before the export, which takes
        # minutes. The last checkpoint is on disk.
        if _any_process(signals.received != 0, accelerator):
            raise Interrupted(progress.step, signals.received)


def _is_due(every: int | str, step: int, is_last: bool) -> bool:
    """True if something with this interval, in steps or "never", is due after this step."""
    return every != "never" and (is_last or step % int(every) == 0)


def wrap_model(live: Live) -> nn.Module:
    """Wrap the model for mixed precision and, with several processes, for DDP."""
    accelerator = live.accelerator
    model = accelerator.unwrap_model(live.model, keep_fp32_wrapper=False)
    # After an earlier stage of unfreezing, accelerate would take the unwrapped model, now without
    # autocast, for one that it has already prepared.
    accelerator._models.clear()
    vars(model).pop("_is_accelerate_prepared", None)
    # FSDP2 reduces the gradients of sharded weights itself; evaluation_mode leaves DDP out.
    return accelerator.prepare_model(model, evaluation_mode=is_sharded(model))  # type: ignore[no-any-return]


def _stream(live: Live, plan: TrainPlan, start: int) -> Iterator[tuple[MicroBatch, Batch]]:
    """Yield all batches of this process from step `start` on, from one pool of workers."""
    rank = live.accelerator.process_index
    micro_batches = (
        micro_batch
        for step in range(start, live.total_steps)
        for micro_batch in plan.micro_batches(step, rank)
    )
    config = live.config.train
    return load_batches(
        live.train,
        live.task,
        micro_batches,
        seed=config.seed,
        device=live.accelerator.device,
        workers=config.workers or 0,
    )


def _accumulate(
    live: Live,
    wrapped: nn.Module,
    batches: list[tuple[MicroBatch, Batch]],
    counts: list[dict[str, Tensor]],
    dro: GroupDro | None,
) -> dict[str, Tensor]:
    """Accumulate the gradient of a whole step.

    Returns the loss terms of this process's micro-batches, each divided by its global count; under
    group DRO, by that of its group, and weighted.
    """
    accelerator, losses = live.accelerator, dict[str, Tensor]()
    if dro is not None:
        dro.begin()
    for place, (micro_batch, batch) in enumerate(batches):
        is_last = place == len(batches) - 1
        syncs = contextlib.nullcontext() if is_last else accelerator.no_sync(wrapped)
        with syncs, _dropout(live, micro_batch):
            batch = to_device(batch, accelerator.device)
            outputs = as_float32(wrapped(batch))
            weight = 0.0 if micro_batch.filler else 1.0
            group = micro_batch.group
            terms = {
                term: value * weight / counts[group][term]
                for term, value in live.task.loss(outputs, batch).items()
            }
            if dro is not None:
                dro.add(group, torch.stack(list(terms.values())).sum())
                terms = {term: value * dro.weights[group] for term, value in terms.items()}
            loss = torch.stack(list(terms.values())).sum()
            # A non-finite loss makes the gradient non-finite, even if its derivative is finite: all
            # processes then see it in the global norm, without a host read of each loss.
            loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
            # DDP averages gradients over processes. The counts are global already, so undo that to
            # get the sum.
            accelerator.backward(loss * accelerator.num_processes)
        for term, value in terms.items():
            losses[term] = losses[term] + value.detach() if term in losses else value.detach()
    return losses


def _group_dro(live: Live, progress: Progress) -> GroupDro | None:
    """Return the weights of the groups that the plan separates; None without group DRO."""
    step_size, groups = live.config.train.group_dro, live.plan.groups
    if step_size is None or groups is None:
        return None
    return GroupDro(progress, int(groups.max()) + 1, step_size, live.accelerator)


def _store(running: RunningLoss, dro: GroupDro | None) -> None:
    """Store what a checkpoint needs beyond the weights and the optimizer in the progress."""
    running.store()
    if dro is not None:
        dro.store()


def _dropout(
    live: Live, micro_batch: MicroBatch
) -> AbstractContextManager[PositionalDropout | None]:
    """Make dropout a function of seed, step and sample, or of seed, step and micro-batch."""
    config, device = live.config.train, live.accelerator.device
    by_sample = config.dropout == "by-sample"
    place = (config.seed, micro_batch.step, *(() if by_sample else (micro_batch.slot,)))
    samples = micro_batch.samples if by_sample else None
    matmul = bool(config.matmul_attention)
    return seeded_dropout(device, place, samples, matmul_attention=matmul)


def _can_retry(error: RuntimeError, plan: TrainPlan, accelerator: Accelerator) -> bool:
    """True if memory ran out and smaller micro-batches may fit.

    The GPU allocator raises its own class of error; others are recognized by their message.
    Several processes would have to agree on the new size, so only a single one retries.
    """
    is_memory = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return is_memory and plan.micro_batch_size > 1 and accelerator.num_processes == 1


def _any_process(value: bool, accelerator: Accelerator) -> bool:
    flag = torch.tensor(float(value), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)
