"""Contrastive tuning of the backbone, before a head is trained on it.

For few rows per class (SetFit, Tunstall et al. 2022, arXiv:2209.11055): the supervised contrastive
loss (L_out of Khosla et al. 2020, arXiv:2004.11362) pulls the vectors that the head reads together
within a class and pushes them apart between classes. The backbone is frozen afterwards.

The phase is short and precedes the first step: a run interrupted in it repeats it. Its result is a
checkpoint of its own, from which a run that resumes at a later step restores the backbone.

Shapes: B rows per step, H features, N rows of train.
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

from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch
from finetune.batching.sampling import classes_of, split_by_class
from finetune.config.yaml import flatten
from finetune.distributed.devices import to_device
from finetune.distributed.positional_dropout import seeded_dropout
from finetune.errors import ConfigError, ModelError, format_count
from finetune.io.checkpoint import (
    changed_tensors,
    find_latest_checkpoint,
    load_changed_tensors,
    save_checkpoint,
)
from finetune.methods.base import Contrastive
from finetune.methods.full import Full
from finetune.methods.method_configs import FullConfig
from finetune.model import HEAD, named_parts
from finetune.optim.gradient_guard import FiniteGuard, clip_gradients
from finetune.optim.optimizers import build_optimizer, trained_parameters
from finetune.optim.schedules import rate_factor, set_rate
from finetune.optim.unusual_values import divergence_remedy
from finetune.reporting.console import Console
from finetune.training.state import Live


def tune_backbone(live: Live, folder: Path | None, console: Console) -> str:
    """Tune the backbone in place, or restore it from the checkpoint in `folder`; return a summary.

    Every process computes the same steps; the first one's weights are then broadcast. Raises
    ConfigError for rows without exactly one class, ModelError if a step does not fit into memory.
    """
    if folder is not None:
        checkpoint, faults = find_latest_checkpoint(folder)
        for fault in faults:
            console.print(fault)
        if checkpoint is not None:
            names, tensors = _backbone_names(live), checkpoint.tensors("model")
            load_changed_tensors(live.model.network, names, tensors, checkpoint.folder)
            return str(checkpoint.state.get("told", "contrastive tuning: restored"))
    try:
        losses = _train(live, console)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "method.contrastive: out of memory; a step compares all rows of a batch, so it cannot "
            f"be split: lower train.batch_size (now {live.config.train.batch_size}), or set "
            "model.activation_checkpointing=true"
        ) from error
    if live.accelerator.num_processes > 1:
        for tensor in _backbone(live).values():
            tensor.copy_(broadcast(tensor.contiguous()))
    tenth = -(-len(losses) // 10)
    steps = format_count(len(losses), "step")
    rows = format_count(live.config.train.batch_size, "row")
    return (
        f"contrastive tuning: {steps} of {rows} on the "
        f"whole backbone; mean loss {np.mean(losses[:tenth]):.4f} over the first tenth of the "
        f"steps, {np.mean(losses[-tenth:]):.4f} over the last"
    )


def save_backbone(live: Live, note: str, folder: Path) -> None:
    """Write the tuned backbone, and the summary of its tuning, as a checkpoint for resumed runs."""
    tensors = {"model": _backbone(live), "optimizer": dict[str, Tensor]()}
    save_checkpoint(folder, _phase(live).steps, tensors, {"told": note})


def _phase(live: Live) -> Contrastive:
    assert live.method.contrastive is not None, "the run has a contrastive phase"
    return live.method.contrastive


def _train(live: Live, console: Console) -> list[float]:
    """Run all steps of the phase and return the loss of each."""
    config, device, phase = live.config, live.accelerator.device, _phase(live)
    steps = phase.steps
    classes = _check_classes(live)
    tuning = Full(FullConfig(batch_norm="freeze"))  # few rows give poor running averages
    tuning.apply(live.model)
    for head in live.model.heads:
        live.model.network.get_submodule(head).requires_grad_(False)
    optimizer = build_optimizer(config.optim, tuning.param_groups(live.model, config.optim))
    trained = [parameter for _, parameter in trained_parameters(optimizer)]
    remedy = divergence_remedy(flatten(config), steps)
    guard = FiniteGuard(optimizer, scaled=False, device=device, remedy=remedy)
    losses: list[Tensor] = []
    tuning.train_mode(live.model)
    for step, batch in enumerate(console.track(_batches(live, classes), steps, "contrastive step")):
        indices, inputs = batch
        batch_classes = torch.from_numpy(classes[indices]).to(device)
        with seeded_dropout(device, (config.train.seed, step, 0xC0)):
            with _autocast(live):
                vectors = _only_vector(live.model.features(to_device(inputs, device)))
            loss = contrastive_loss(vectors, batch_classes, phase.temperature)
            loss.backward()  # type: ignore[no-untyped-call]
        guard.check(clip_gradients(optimizer, trained, config.optim.max_grad_norm), step)
        set_rate(optimizer, rate_factor(config.optim, step, steps))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    guard.confirm(steps)
    live.method.apply(live.model)  # frozen again
    return torch.stack(losses).tolist()


def contrastive_loss(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Mean of L_out over the rows with another row of their class, float32 [].

    `vectors` are [B, H] and are normalized here; `classes` are int64 [B].
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
    """Draw the rows of a step, int64 [B], as a function of seed and step.

    `members` are the rows of each class. As many classes are drawn as leave two rows for each, with
    equally many rows of each, to within one. Rows of a small class repeat: under dropout or
    augmentation each repetition is another view.
    """
    rng = np.random.default_rng([seed, step, 0xC0])
    chosen = rng.permutation(len(members))[: size // 2]
    drawn = []
    for label, places in zip(chosen, np.array_split(np.arange(size), len(chosen)), strict=True):
        rounds = -(-len(places) // len(members[label]))
        deck = [rng.permutation(members[label]) for _ in range(rounds)]
        drawn.append(np.concatenate(deck)[: len(places)])
    return np.concatenate(drawn)


def _batches(live: Live, classes: np.ndarray) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield the rows of each step and their inputs."""
    size, seed = live.config.train.batch_size, live.config.train.seed
    members = split_by_class(classes)
    micro_batches = []
    for step in range(_phase(live).steps):
        indices = tuple(draw_rows(members, size, seed, step).tolist())
        # Distinct turns give every occurrence of a row its own augmentation.
        turns = tuple(range(step * size, (step + 1) * size))
        micro_batches.append(MicroBatch(indices, step, epoch=step, turns=turns))
    batches = load_batches(
        live.train,
        live.task,
        micro_batches,
        seed=seed,
        device=live.accelerator.device,
        workers=live.config.train.workers or 0,
        mixes=False,
    )
    for micro_batch, batch in batches:
        yield list(micro_batch.indices), batch["inputs"]


def _check_classes(live: Live) -> np.ndarray:
    """Return the class of each row, int64 [N]. Raises ConfigError without classes to contrast."""
    classes = classes_of(live.task, live.train.rows, "method.contrastive")
    place = f"method.contrastive={_phase(live).steps}"
    if len(np.unique(classes)) < 2:
        raise ConfigError(f"{place}: all rows belong to one class; add rows of another class")
    return classes


def _only_vector(features: dict[str, Tensor]) -> Tensor:
    """Return the one feature that the head reads, as vectors [B, H]."""
    if len(features) != 1:
        raise ModelError(
            "method.contrastive needs one vector per row before the head, but the head of this "
            f"network reads {', '.join(features)}; leave method.contrastive out"
        )
    return next(iter(features.values())).flatten(1)


def _autocast(live: Live) -> contextlib.AbstractContextManager[None]:
    """Autocast, except under fp16: this phase has no loss scaler."""
    if live.config.train.precision == "fp16":
        return contextlib.nullcontext()
    return live.accelerator.autocast()  # type: ignore[no-any-return]


def _backbone_names(live: Live) -> set[str]:
    return {name for name, _, part in named_parts(live.model) if part != HEAD}


def _backbone(live: Live) -> dict[str, Tensor]:
    """Return the tensors that this phase changes, by name."""
    return changed_tensors(live.model.network, _backbone_names(live))
