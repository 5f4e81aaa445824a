"""The network of a run: built and tried at its start, gathered from all processes at its end."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.batching.data_loader import load_batches, measure_split
from finetune.batching.parts import split_into_parts
from finetune.batching.plan import TrainPlan, blocks_by_length
from finetune.config.schema import RunConfig
from finetune.distributed.devices import as_float32, to_device
from finetune.distributed.fsdp import gather, is_sharded
from finetune.distributed.positional_dropout import seeded_dropout
from finetune.distributed.precision import cast_once
from finetune.errors import ConfigError, ModelError
from finetune.io.checkpoint import changed_tensors, load_changed_tensors
from finetune.io.integrity import network_faults
from finetune.io.system_errors import is_out_of_memory
from finetune.methods.base import Method
from finetune.model import Batch, TransferModel, check_finite
from finetune.optim.optimizers import trained_names, trained_parameters
from finetune.task import Task
from finetune.task_parts.samples import take_rows
from finetune.training.state import Live

# Training rows that a method observes before it is applied: in total, and per batch.
OBSERVED, OBSERVED_TOGETHER = 256, 16
_REMEDY = "correct the values in its config.json, or give another network"
# Attention is measured in runs of at least so many passes, by some passes of each way after one
# that warms up; it is changed for a gain of at least a twentieth.
MEASURED_RUN, MEASURED_PASSES, WORTHWHILE = 150, 2, 0.95
_TOO_FEW_VALUES = "Expected more than 1 value per channel"  # torch's message


def build_network(
    config: RunConfig,
    task: Task,
    method: Method,
    device: torch.device,
    batches: Iterable[Batch] | None = None,
) -> tuple[TransferModel, list[str]]:
    """Build the initial network of a run on its device; also return notes on it for the user.

    It is a function of the config and the training rows: new heads and adapters are initialized
    from the seed. `batches` are for a method that observes some and has not done so yet. Raises
    ModelError for a pretrained network that cannot be built, or whose weights are not finite.
    """
    torch.manual_seed(config.train.seed)
    place = f"model.name: {config.model.name}"
    with network_faults(place, "cannot be built", _REMEDY):
        model = task.build_model(config.model)
    check_finite(model, place, "copy it here again from an intact source, or give another network")
    notes = method.observe(model.to(device), batches) if batches is not None else []
    notes += method.apply(model)
    return model.to(device), [*model.notes, *notes]


def first_batches(rows: Dataset, task: Task, seed: int, device: torch.device) -> Iterator[Batch]:
    """Yield some training rows without augmentation, the same ones on every process."""
    chosen = np.random.default_rng([seed, 0x0E7A]).permutation(len(rows))[:OBSERVED]
    observed, _ = split_into_parts(rows.select(np.sort(chosen)), task)
    split, _, _ = measure_split("train", observed, task)
    micro_batches = blocks_by_length(split.lengths, OBSERVED_TOGETHER)
    for _, batch in load_batches(split, task, micro_batches, seed=seed, device=device, mixes=False):
        yield batch


def try_network(live: Live) -> None:
    """Try the network in training mode on a row, before the first step and without a trace.

    Raises ModelError for one that fails: its config.json may hold values that nothing checks until
    they are used. Raises ConfigError if BatchNorm fails on micro-batches of a single row, which the
    plan has: it needs several values per channel, from several rows or pixels.
    """
    model, plan = live.model, live.plan
    if is_sharded(model):
        return
    has_single = not live.method.solves_head and plan.fewest_rows(live.total_steps) == 1
    # Gradual unfreezing trains most blocks at the end.
    live.method.unfreeze(model, live.total_steps / plan.steps_per_epoch)
    live.method.train_mode(model)
    try:
        with network_faults(f"model.name: {live.config.model.name}", "fails on a row", _REMEDY):
            _try_row(live, has_single=has_single)
    except ModelError as error:
        if has_single and _TOO_FEW_VALUES in str(error.__cause__):
            raise ConfigError(_single_row_fault(live.config, plan)) from error
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):  # the loop answers with smaller micro-batches
            raise
    finally:
        live.method.unfreeze(model, 0)
        model.eval()


def _try_row(live: Live, *, has_single: bool) -> None:
    """Compute the outputs of a training row, given twice to BatchNorm unless the plan `has_single`.

    The averages of BatchNorm stay as they were.
    """
    norms = [module for module in live.model.network.modules() if isinstance(module, _BatchNorm)]
    norms = [norm for norm in norms if norm.training]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    row = take_rows(live.train.rows, [0])[0]
    copies = 2 if norms and not has_single else 1
    batch = live.task.collate([live.task.encode(row) for _ in range(copies)])
    device = live.accelerator.device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices), live.accelerator.autocast():
            live.model(to_device(batch, device))
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _single_row_fault(config: RunConfig, plan: TrainPlan) -> str:
    train, rows = config.train, len(plan.lengths)
    if rows > 1 and rows % train.batch_size == 1:
        better = next(
            (size for size in range(train.batch_size - 1, 1, -1) if rows % size != 1),
            train.batch_size + 1,
        )
        place = (
            f"train.batch_size={train.batch_size}: the last batch of an epoch has 1 of {rows} rows"
        )
        remedy = f"write train.batch_size={better}"
    else:
        place = f"train.batch_size={train.batch_size}, train.micro_batch={train.micro_batch}: some"
        place += f" micro-batches of the {rows} training rows have a single row"
        remedy = "raise train.micro_batch or train.batch_size, or add rows"
    return (
        f"{place}, and BatchNorm in training mode needs at least 2 where feature maps have a single"
        f" pixel; {remedy}, or method.batch_norm=freeze"
    )


def choose_attention(live: Live) -> tuple[bool, str]:
    """Return the default of train.matmul_attention, and its reason; "" if it has not been measured.

    It is the faster way on some passes over a typical micro-batch, by processor time, which other
    load hardly changes. The main process decides for all. Weights and statistics do not change.
    """
    config, plan, accelerator = live.config, live.plan, live.accelerator
    passes = live.total_steps * len(plan.micro_batches(0, accelerator.process_index))
    is_settled = (
        accelerator.device.type != "cpu"
        or config.model.attention is not None
        or config.train.deterministic
    )
    if is_settled or is_sharded(live.model) or live.method.solves_head or passes < MEASURED_RUN:
        return False, ""
    choice = [_measure_attention(live) if accelerator.is_main_process else (False, "")]
    broadcast_object_list(choice)
    return choice[0]


def _measure_attention(live: Live) -> tuple[bool, str]:
    model, plan = live.model, live.plan
    steps = range(min(live.total_steps, plan.steps_per_epoch, MEASURED_RUN))
    by_length = sorted(steps, key=lambda step: plan.lengths[plan.rows(step)].max())
    typical = plan.micro_batches(by_length[len(steps) // 2], 0)[:1]
    device, seed = live.accelerator.device, live.config.train.seed
    ((_, batch),) = load_batches(live.train, live.task, typical, seed=seed, device=device)
    trained = [parameter for _, parameter in trained_parameters(live.optimizer)]
    buffers = [buffer.clone() for buffer in model.buffers()]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    live.method.unfreeze(model, 0)
    live.method.train_mode(model)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            cast_once(model, live.accelerator.mixed_precision, trained),
        ):
            for _ in range(1 + MEASURED_PASSES):
                for matmul, taken in seconds.items():
                    taken.append(_time_pass(live, batch, matmul))
                    if math.isinf(taken[-1]):
                        return False, ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):  # the loop answers with smaller micro-batches
            raise
        return False, ""
    finally:
        live.optimizer.zero_grad()
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        model.eval()
    without, with_it = (statistics.median(taken[1:]) for taken in seconds.values())
    measured = f"measured: {with_it:.3g} s per pass with it, {without:.3g} s without"
    return with_it < WORTHWHILE * without, measured


def _time_pass(live: Live, batch: Batch, matmul: bool) -> float:
    """Return the processor seconds of a forward and backward pass; inf if there is no choice."""
    start = time.process_time()
    place = live.accelerator.device, (live.config.train.seed, 0)
    with seeded_dropout(*place, matmul_attention=matmul) as mode:
        with live.accelerator.autocast():
            outputs = as_float32(live.model(batch))
        torch.stack(list(live.task.loss(outputs, batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert mode is not None, "this is a CPU"
    return time.process_time() - start if mode.has_kernel else math.inf


def whole_model(live: Live) -> TransferModel | None:
    """Return the current model with all of its weights, gathered on the main process if sharded.

    Other processes then get None. A collective: every process must call it.
    """
    accelerator = live.accelerator
    model: TransferModel = accelerator.unwrap_model(live.model, keep_fp32_wrapper=False)
    if not is_sharded(model):
        return model
    names = trained_names(live.optimizer)
    tensors = gather(changed_tensors(model.network, names), keep=accelerator.is_main_process)
    if not accelerator.is_main_process:
        return None
    # Like a resumed run: rebuild the initial network, then load the weights that training changed.
    fresh, _ = build_network(live.config, live.task, live.method, accelerator.device)
    load_changed_tensors(fresh.network, names, tensors, Path("the memory of this run"))
    return fresh
