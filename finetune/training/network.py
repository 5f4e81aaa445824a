"""The network of a run: built and tried at its start, gathered from all processes at its end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.batching.data_loader import load_batches, measure_split
from finetune.batching.parts import split_into_parts
from finetune.batching.plan import TrainPlan, blocks_by_length
from finetune.config.schema import RunConfig
from finetune.distributed.devices import to_device
from finetune.distributed.fsdp import gather, is_sharded
from finetune.distributed.positional_dropout import AttentionRecorder, PositionalDropout
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
# Attention is measured in runs of at least so many passes, on a micro-batch of the first steps, by
# some calls of each way after one that warms up, which together take half a pass. It is changed for
# a gain of at least a tenth, unless a call takes less than a millisecond: that is too short to tell
# the ways apart, and equal runs would differ.
MEASURED_RUN, MEASURED_STEPS, MEASURED_CALLS, WORTHWHILE, LEAST_SECONDS = 20, 150, 3, 0.9, 1e-3
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

    It is the faster way for the first attention of a typical micro-batch, by processor time, which
    other load hardly changes. The main process decides for all. Weights and statistics do not
    change.
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
    steps = range(min(live.total_steps, plan.steps_per_epoch, MEASURED_STEPS))
    longest = np.array([plan.lengths[plan.rows(step)].max() for step in steps], dtype=float)
    order = np.argsort(longest)
    # Half of all scores are those of longer rows.
    scores = np.cumsum(longest[order] ** 2)
    typical = plan.micro_batches(int(order[np.searchsorted(scores, scores[-1] / 2)]), 0)[:1]
    device, seed = live.accelerator.device, live.config.train.seed
    ((_, batch),) = load_batches(live.train, live.task, typical, seed=seed, device=device)
    trained = [parameter for _, parameter in trained_parameters(live.optimizer)]
    buffers = [buffer.clone() for buffer in model.buffers()]
    live.method.unfreeze(model, 0)
    live.method.train_mode(model)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            cast_once(model, live.accelerator.mixed_precision, trained),
            live.accelerator.autocast(),
        ):
            with torch.no_grad(), AttentionRecorder() as recorder:
                model(batch)
            if recorder.first is None:  # there is no choice
                return False, ""
            arguments, options = recorder.first
            without, with_it = _time_attention(arguments, options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):  # the loop answers with smaller micro-batches
            raise
        return False, ""
    finally:
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        model.eval()
    if without < LEAST_SECONDS:
        return False, ""
    milliseconds = f"{with_it * 1000:.3g} ms per layer with it, {without * 1000:.3g} ms without"
    return with_it < WORTHWHILE * without, f"measured: {milliseconds}"


def _time_attention(arguments: Sequence[Any], options: Mapping[str, Any]) -> tuple[float, float]:
    """Return the processor seconds of an attention and its gradients: by torch's kernel, and by
    matrix products.
    """
    inputs = [tensor.detach().requires_grad_() for tensor in arguments[:3]]
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(1 + MEASURED_CALLS):
        for matmul, taken in enumerate(seconds):
            start = time.process_time()
            with PositionalDropout(matmul_attention=bool(matmul)):
                output = scaled_dot_product_attention(*inputs, *arguments[3:], **options)
            torch.autograd.grad(output, inputs, torch.ones_like(output))
            taken.append(time.process_time() - start)
    kernel, products = (statistics.median(taken[1:]) for taken in seconds)
    return kernel, products


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
