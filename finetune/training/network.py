"""The network of a run: built and tried at its start, gathered from all processes at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.batching.data_loader import load_batches, measure_split
from finetune.batching.parts import split_into_parts
from finetune.batching.plan import TrainPlan, blocks_by_length
from finetune.config.schema import RunConfig
from finetune.distributed.devices import to_device
from finetune.distributed.fsdp import gather, is_sharded
from finetune.errors import ConfigError, ModelError
from finetune.io.checkpoint import changed_tensors, load_changed_tensors
from finetune.io.integrity import network_faults
from finetune.io.system_errors import is_out_of_memory
from finetune.methods.base import Method
from finetune.model import Batch, TransferModel, check_finite
from finetune.optim.optimizers import trained_names
from finetune.task import Task
from finetune.task_parts import take_rows
from finetune.training.state import Live

# Training rows that a method observes before it is applied: in total, and per batch.
OBSERVED, OBSERVED_TOGETHER = 256, 16
_REMEDY = "correct the values in its config.json, or give another network"
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
