"""From a config and its splits to everything that is in memory while a run trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import Accelerator

from finetune.batching.data_loader import Split, measured_split
from finetune.batching.parts import PartRows, in_parts
from finetune.batching.plan import TrainPlan
from finetune.batching.row_cache import CachePlan, with_features
from finetune.batching.sampling import classes_of
from finetune.config.schema import RunConfig
from finetune.data.opening import Splits
from finetune.distributed.fsdp import check_sharding, shard
from finetune.errors import ConfigError, DataError
from finetune.methods.base import Method
from finetune.model import TransferModel, head_weights
from finetune.optim.ema import Ema
from finetune.optim.optimizers import build_optimizer, trained_parameters
from finetune.registry import make_method
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts import Length
from finetune.training.network import build_network, first_batches
from finetune.training.recipes import fill_defaults
from finetune.training.state import Live


@dataclass(frozen=True)
class Prepared:
    """A run ready to train, its held-out splits, and what a person should know of its making."""

    live: Live
    validation: Split | None
    test: Split | None
    reasons: dict[str, str]
    """Why each key left at null has its value."""
    notes: list[str]
    lengths: dict[str, list[Length]]

    @property
    def held_out(self) -> list[Split]:
        return [split for split in (self.validation, self.test) if split is not None]


def assemble(config: RunConfig, task: Task, splits: Splits, accelerator: Accelerator) -> Prepared:
    """Load the network, apply the method, fill in defaults, plan the steps."""
    method = make_method(config.method)
    _check_keys(config, method)
    notes = task.setup(splits.train, config.model, frozen=method.freezes_backbone)
    _check_labels(splits, task)
    batches = None
    if method.reads_batches:
        batches = first_batches(splits.train, task, config.train.seed, accelerator.device)
    model, said = build_network(config, task, method, accelerator.device, batches)
    notes += said
    if config.model.activation_checkpointing:
        model.checkpoint_activations()
    if config.output.dtype != "float32" and not model.may_round:
        raise ConfigError(
            f"output.dtype: {config.output.dtype} is for networks that write text; leave it out"
        )
    config, reasons = fill_defaults(config, method, model, accelerator.device)
    config = config.model_copy(update={"task": task.resolved_})
    if config.optim.l1_head:
        head_weights(model)  # of which there must be some
    if config.train.shard and accelerator.num_processes > 1:
        check_sharding(config, config.train.precision or "fp32", method.sharding_fault)
        notes.append(shard(model, accelerator.device, accelerator.num_processes))
    groups = method.param_groups(model, config.optim)

    parts, lengths = dict[str, Split](), dict[str, list[Length]]()
    for name, rows in splits.named.items():
        if name == "train":
            rows, said = in_parts(rows, task)
        else:
            said = task.views.compare(name, rows)
        parts[name], lengths[name], left_out = measured_split(name, rows, task)
        notes += [*said, *left_out]
    classes, said = _classes(config, task, parts["train"])
    notes += said
    live = _live(config, task, method, model, groups, accelerator, parts["train"], classes)
    return Prepared(live, parts.get("validation"), parts.get("test"), reasons, notes, lengths)


def caches_features(live: Live) -> bool:
    """Whether the features that the head reads are computed once, before the first step."""
    return live.method.feature_cache is not None and live.model.cacheable


def cache_features(prepared: Prepared, console: Console) -> Prepared:
    """The same run with the features of every split, computed or found, where they are cached."""
    live, notes = prepared.live, list(prepared.notes)
    if not caches_features(live):
        return prepared
    parts: dict[str, Split] = {}
    plan = _cache_plan(live)
    if live.task.augments and plan.views == 1:
        notes.append(
            "augmentation: not seen by features that are cached once; method.views=8 caches eight "
            "augmented views of each row, method.cache=off augments at every step"
        )
    # Rows that training sees in parts are whole in the other splits: of any size, so not to cache.
    held_out = [] if isinstance(live.train.rows, PartRows) else prepared.held_out
    for split in (live.train, *held_out):
        own = plan if split is live.train else replace(plan, views=1)
        parts[split.name], note = _features(live, split, own, console)
        notes.append(note)
    return replace(
        prepared,
        live=replace(live, train=parts["train"]),
        validation=parts.get("validation", prepared.validation),
        test=parts.get("test", prepared.test),
        notes=notes,
    )


def _cache_plan(live: Live) -> CachePlan:
    train, cache = live.config.train, live.method.feature_cache
    assert cache is not None and train.precision is not None
    views = cache.views if live.task.augments else 1
    return CachePlan(train.precision, cache.limit_gib, views, train.seed)


def _features(live: Live, split: Split, plan: CachePlan, console: Console) -> tuple[Split, str]:
    return with_features(
        live.model,
        live.task,
        split,
        live.accelerator,
        plan,
        progress=lambda batches, total: console.track(batches, total, f"features of {split.name}"),
    )


def total_steps(config: RunConfig, method: Method, steps_per_epoch: int) -> int:
    """Optimizer steps of a run; max_steps wins over epochs, and an exact solver takes one."""
    if method.solves_head:
        return 1
    if config.train.max_steps is not None:
        return config.train.max_steps
    assert config.train.epochs is not None, "the defaults fill in the epochs"
    return max(1, math.ceil(config.train.epochs * steps_per_epoch - 1e-9))


def _live(
    config: RunConfig,
    task: Task,
    method: Method,
    model: TransferModel,
    groups: list[dict[str, Any]],
    accelerator: Accelerator,
    train: Split,
    classes: np.ndarray | None,
) -> Live:
    processes, batch_size = accelerator.num_processes, config.train.batch_size
    plan = TrainPlan(
        train.lengths,
        batch_size,
        micro_batch_size=config.train.micro_batch or -(-batch_size // processes),
        seed=config.train.seed,
        by_length=config.train.batching == "length",
        processes=processes,
        classes=classes,
    )
    optimizer = accelerator.prepare_optimizer(build_optimizer(config.optim, groups))
    steps = total_steps(config, method, plan.steps_per_epoch)
    ema = None
    if config.optim.ema is not None:
        ema = Ema(trained_parameters(optimizer), config.optim.ema)
    return Live(config, task, method, model, optimizer, accelerator, train, plan, steps, ema)


def _check_keys(config: RunConfig, method: Method) -> None:
    """Refuse keys that mean nothing beside each other. Raises ConfigError."""
    model, optim = config.model, config.optim
    if model.quantize and (not method.takes_quantized or method.contrastive is not None):
        raise ConfigError(
            f"model.quantize={model.quantize}: weights of few bits cannot be trained by "
            f"method={method.name}; use method=lora, or leave model.quantize out"
        )
    drops = {"model.dropout": model.dropout, "model.drop_path": model.drop_path}
    _refuse(
        drops if method.freezes_backbone and method.contrastive is None else {},
        "method=frozen runs the pretrained network as it is, where nothing is dropped; leave it "
        "out, or use method=lora, partial or full, or method.contrastive",
    )
    loops = {
        "train.sampling": config.train.sampling if config.train.sampling != "each" else None,
        "optim.l1_head": optim.l1_head or None,
        "optim.ema": optim.ema,
    }
    _refuse(
        loops if method.solves_head else {},
        "method.solver=exact takes no steps, so this does nothing; leave it out, or use "
        "method.solver=loop",
    )


def _refuse(given: Mapping[str, Any], why: str) -> None:
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f"{key}={value}: {why}")


def _classes(config: RunConfig, task: Task, train: Split) -> tuple[np.ndarray | None, list[str]]:
    """The classes of the training rows, int64 [N], where the same number of each is drawn, and how
    many those are. Raises ConfigError for rows that have no class.
    """
    if config.train.sampling != "balanced":
        return None, []
    classes = classes_of(task, train.rows, "train.sampling=balanced")
    sizes = np.bincount(classes)
    drawn = len(classes) / len(sizes)
    note = (
        f"sampling: an epoch draws {drawn:.4g} rows of each of {len(sizes)} classes, those of the "
        f"rarest {drawn / sizes.min():.2g} times, of the largest {drawn / sizes.max():.2g} times"
    )
    return classes, [note]


def _check_labels(splits: Splits, task: Task) -> None:
    """Now that the labels are known: a held-out split must have no other ones."""
    for name, rows in splits.named.items():
        if name == "train":
            continue
        faults = [fault for row in rows for fault in task.unseen(row)]
        if faults:
            raise DataError(
                f"{name}: {len(faults)} rows cannot be measured: {faults[0]}. "
                "Name all labels in task.labels, or remove those rows"
            )
