"""The network of a run: as it begins, and whole again as it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.batching.data_loader import load_batches, measured_split
from finetune.batching.parts import in_parts
from finetune.batching.plan import blocks_by_length
from finetune.config.schema import RunConfig
from finetune.distributed.fsdp import gather, is_sharded
from finetune.io.checkpoint import changed_tensors, load_changed
from finetune.methods.base import Method
from finetune.model import Batch, TransferModel
from finetune.optim.optimizers import trained_names
from finetune.task import Task
from finetune.training.state import Live

# Training rows that are shown to a method before it is applied, in all and at once.
OBSERVED, OBSERVED_TOGETHER = 256, 16


def build_network(
    config: RunConfig,
    task: Task,
    method: Method,
    device: torch.device,
    batches: Iterable[Batch] | None = None,
) -> tuple[TransferModel, list[str]]:
    """The network that a run begins with, on its device, and what a person should know of it.

    It is a function of the config and the training rows: new heads and adapters are drawn from the
    seed. `batches` are for a method that reads some and has not yet done so.
    """
    torch.manual_seed(config.train.seed)
    model = task.build_model(config.model)
    said = method.observe(model.to(device), batches) if batches is not None else []
    said += method.apply(model)
    return model.to(device), [*model.notes, *said]


def first_batches(rows: Any, task: Task, seed: int, device: torch.device) -> Iterator[Batch]:
    """Some training rows without augmentation, the same on every process; they are read when the
    network is built.
    """
    chosen = np.random.default_rng([seed, 0x0E7A]).permutation(len(rows))[:OBSERVED]
    seen, _ = in_parts(rows.select(np.sort(chosen)), task)
    split, _, _ = measured_split("train", seen, task)
    micro_batches = blocks_by_length(split.lengths, OBSERVED_TOGETHER)
    for _, batch in load_batches(split, task, micro_batches, seed=seed, device=device, mixes=False):
        yield batch


def whole_model(live: Live) -> TransferModel | None:
    """The model as it is now, with all of its weights in the memory of the main process.

    None on other processes, if weights are split among them; every process must ask for it.
    """
    accelerator = live.accelerator
    model: TransferModel = accelerator.unwrap_model(live.model, keep_fp32_wrapper=False)
    if not is_sharded(model):
        return model
    names = trained_names(live.optimizer)
    tensors = gather(changed_tensors(model.network, names), keep=accelerator.is_main_process)
    if not accelerator.is_main_process:
        return None
    # As a resumed run does: the rest of the weights is what it was before the first step.
    fresh, _ = build_network(live.config, live.task, live.method, accelerator.device)
    load_changed(fresh.network, names, tensors, Path("the memory of this run"))
    return fresh
