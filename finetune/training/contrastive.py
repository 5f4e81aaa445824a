"""Contrastive tuning: before a head is trained, the backbone learns to tell the classes apart.

For few rows of each class (SetFit, Tunstall et al. 2022, arXiv:2209.11055): the vectors that the
head reads are drawn together within a class and apart between classes by the supervised contrastive
loss (L_out of Khosla et al. 2020, arXiv:2004.11362). What follows is a run on a frozen backbone.

The phase is short, and comes before the first step: stopped in it, a run begins it again. Its
outcome is a checkpoint of its own, so that a run that goes on from a later step finds it.

Shapes: B rows of a step, H features, N rows of train.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch
from finetune.batching.sampling import classes_of, split_by_class
from finetune.distributed.devices import to_device
from finetune.errors import ConfigError, ModelError
from finetune.io.checkpoint import changed_tensors, load_changed, newest_good, save_checkpoint
from finetune.methods.base import Contrastive
from finetune.methods.full import Full, FullConfig
from finetune.model import HEAD, named_parts
from finetune.optim.gradient_guard import FiniteGuard
from finetune.optim.optimizers import build_optimizer, trained_parameters
from finetune.optim.schedules import rate_factor, set_rate
from finetune.reporting.console import Console
from finetune.training.loop import seed_dropout, seed_of
from finetune.training.state import Live

# Two rows of each of two classes: less holds no pair to draw together, or none to draw apart.
SMALLEST_BATCH = 4


def tune_backbone(live: Live, found_in: Path | None, console: Console) -> str:
    """Tune the backbone in place, or take it from the checkpoint in a folder; what was done.

    All processes do the same, and end with the bits of the first one. Raises ConfigError for rows
    that do not have one class each, ModelError where a step does not fit into memory.
    """
    if found_in is not None:
        checkpoint, faults = newest_good(found_in)
        for fault in faults:
            console.print(fault)
        if checkpoint is not None:
            names, tensors = _backbone_names(live), checkpoint.tensors("model")
            load_changed(live.model.network, names, tensors, checkpoint.folder)
            return str(checkpoint.state["told"])
    try:
        losses = _train(live, console)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "method.contrastive: the rows of a step, which are compared with each other, do not "
            f"fit into memory; lower train.batch_size (now {live.config.train.batch_size}), or set "
            "model.activation_checkpointing=true"
        ) from error
    if live.accelerator.num_processes > 1:
        for tensor in _backbone(live).values():
            tensor.copy_(broadcast(tensor.contiguous()))
    tenth = -(-len(losses) // 10)
    return (
        f"contrastive tuning: {len(losses)} steps of {live.config.train.batch_size} rows, all of "
        f"the backbone; loss {np.mean(losses[:tenth]):.4f} in the first tenth of them, "
        f"{np.mean(losses[-tenth:]):.4f} in the last"
    )


def keep_backbone(live: Live, told: str, folder: Path) -> None:
    """Write the tuned backbone as a checkpoint, for a run that goes on later."""
    held = {"model": _backbone(live), "optimizer": dict[str, Tensor]()}
    save_checkpoint(folder, _asked(live).steps, held, {"told": told})


def _asked(live: Live) -> Contrastive:
    assert live.method.contrastive is not None, "the run has a contrastive phase"
    return live.method.contrastive


def _train(live: Live, console: Console) -> list[float]:
    """All steps of the phase; the loss of each."""
    config, device, asked = live.config, live.accelerator.device, _asked(live)
    steps = asked.steps
    classes = _check_classes(live)
    tuning = Full(FullConfig(batch_norm="freeze"))  # averages of few rows are poor ones
    tuning.apply(live.model)
    for head in live.model.heads:
        live.model.network.get_submodule(head).requires_grad_(False)
    optimizer = build_optimizer(config.optim, tuning.param_groups(live.model, config.optim))
    trained = [parameter for _, parameter in trained_parameters(optimizer)]
    guard = FiniteGuard(optimizer, scaled=False, device=device)
    losses: list[Tensor] = []
    tuning.train_mode(live.model)
    for step, batch in enumerate(console.track(_batches(live, classes), steps, "contrastive step")):
        indices, inputs = batch
        seed_dropout(seed_of(config.train.seed, step, 0xC0), device)
        with _autocast(live):
            vectors = _only_vector(live.model.features(to_device(inputs, device)))
        own = torch.from_numpy(classes[indices]).to(device)
        loss = contrastive_loss(vectors, own, asked.temperature)
        loss.backward()  # type: ignore[no-untyped-call]
        guard.check(clip_grad_norm_(trained, config.optim.max_grad_norm or math.inf), step)
        set_rate(optimizer, rate_factor(config.optim, step, steps))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    guard.confirm(steps)
    live.method.apply(live.model)  # frozen again
    return torch.stack(losses).tolist()


def contrastive_loss(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """The mean of L_out over the rows that are not alone in their class, float32 [].

    `vectors` are [B, H], of any length; `classes` int64 [B].
    """
    units = F.normalize(vectors.float(), dim=1)
    itself = torch.eye(len(units), dtype=torch.bool, device=units.device)
    scores = (units @ units.T / temperature).masked_fill(itself, -math.inf)  # [B, B]
    shares = scores - scores.logsumexp(1, keepdim=True)
    alike = (classes[:, None] == classes) & ~itself
    count = alike.sum(1)  # [B]
    sums = shares.masked_fill(~alike, 0.0).sum(1)
    return -(sums / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def draw_rows(members: Sequence[np.ndarray], size: int, seed: int, step: int) -> np.ndarray:
    """The rows of a step, int64 [B], from those of each class: a function of seed and step.

    Of as many classes as leaves two rows for each, as many of each, to within one. A class of fewer
    rows gives some of them again: with dropout or augmentation it is another view.
    """
    rng = np.random.default_rng([seed, step, 0xC0])
    chosen = rng.permutation(len(members))[: size // 2]
    drawn = []
    for own, places in zip(chosen, np.array_split(np.arange(size), len(chosen)), strict=True):
        rounds = -(-len(places) // len(members[own]))
        deck = [rng.permutation(members[own]) for _ in range(rounds)]
        drawn.append(np.concatenate(deck)[: len(places)])
    return np.concatenate(drawn)


def _batches(live: Live, classes: np.ndarray) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """The rows of each step and what the network reads of them."""
    size, seed = live.config.train.batch_size, live.config.train.seed
    members = split_by_class(classes)
    micro_batches = []
    for step in range(_asked(live).steps):
        indices = tuple(draw_rows(members, size, seed, step).tolist())
        # Whatever is augmented is augmented anew, a row that comes twice in two ways.
        turns = tuple(range(step * size, (step + 1) * size))
        micro_batches.append(MicroBatch(indices, step, epoch=step, turns=turns))
    batches = load_batches(
        live.train,
        live.task,
        micro_batches,
        seed=seed,
        device=live.accelerator.device,
        workers=live.config.train.workers,
        mixes=False,
    )
    for micro_batch, batch in batches:
        yield list(micro_batch.indices), batch["inputs"]


def _check_classes(live: Live) -> np.ndarray:
    """The class of each row, int64 [N], and that there is something to contrast."""
    classes = classes_of(live.task, live.train.rows, "method.contrastive")
    place = f"method.contrastive={_asked(live).steps}"
    if len(np.unique(classes)) < 2:
        raise ConfigError(f"{place}: all rows are of one class; give rows of another, too")
    size = live.config.train.batch_size
    if size < SMALLEST_BATCH:
        raise ConfigError(
            f"{place}: a step compares the rows of a batch, and train.batch_size={size} are too "
            f"few; set it to {SMALLEST_BATCH} or more"
        )
    return classes


def _only_vector(features: dict[str, Tensor]) -> Tensor:
    """What the head reads, as vectors [B, H]."""
    if len(features) != 1:
        raise ModelError(
            "method.contrastive needs one vector a row before the head, and this network has "
            f"{', '.join(features)}; leave it out"
        )
    return next(iter(features.values())).flatten(1)


def _autocast(live: Live) -> contextlib.AbstractContextManager[None]:
    """Narrow numbers only where gradients need no loss scaler."""
    if live.config.train.precision == "fp16":
        return contextlib.nullcontext()
    return live.accelerator.autocast()  # type: ignore[no-any-return]


def _backbone_names(live: Live) -> set[str]:
    return {name for name, _, part in named_parts(live.model) if part != HEAD}


def _backbone(live: Live) -> dict[str, Tensor]:
    """What the phase changes, by name."""
    return changed_tensors(live.model.network, _backbone_names(live))
