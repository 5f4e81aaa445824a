"""The network of a run: built at its start, gathered from all processes at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from finetune.batching.data_loader import load_batches, measure_split
from finetune.batching.parts import split_into_parts
from finetune.batching.plan import blocks_by_length
from finetune.config.schema import RunConfig
from finetune.distributed.fsdp import gather, is_sharded
from finetune.io.checkpoint import changed_tensors, load_changed_tensors
from finetune.methods.base import Method
from finetune.model import Batch, TransferModel
from finetune.optim.optimizers import trained_names
from finetune.task import Task
from finetune.training.state import Live

# Training rows that a method observes before it is applied: in total, and per batch.
OBSERVED, OBSERVED_TOGETHER = 256, 16


def build_network(
    config: RunConfig,
    task: Task,
    method: Method,
    device: torch.device,
    batches: Iterable[Batch] | None = None,
) -> tuple[TransferModel, list[str]]:
    """Build the initial network of a run on its device; also return notes on it for the user.

    It is a function of the config and the training rows: new heads and adapters are initialized
    from the seed. `batches` are for a method that observes some and has not done so yet.
    """
    torch.manual_seed(config.train.seed)
    model = task.build_model(config.model)
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
