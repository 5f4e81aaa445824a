"""Setup of a run: from a config and its splits to everything that is in memory while it trains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from finetune.batching.data_loader import (
    WORKERS_PER_CORE,
    Split,
    measure_split,
    usable_workers,
)
from finetune.batching.feature_key import digest_model
from finetune.batching.parts import PartRows, split_into_parts
from finetune.batching.plan import TrainPlan
from finetune.batching.row_cache import CachePlan, attach_features
from finetune.batching.sampling import check_classes, classes_of
from finetune.batching.shared_rows import SharedRows
from finetune.config.best_metric import selected_metric
from finetune.config.schema import RunConfig
from finetune.data.opening import Splits
from finetune.distributed.compilation import compiles_on
from finetune.distributed.fsdp import shard
from finetune.errors import ConfigError, DataError
from finetune.methods.base import Method
from finetune.model import TransferModel, head_weights
from finetune.optim.ema import Ema
from finetune.optim.optimizers import OPTIMIZERS, build_optimizer, trained_parameters
from finetune.registry import make_method
from finetune.reporting.console import Console
from finetune.reporting.run_facts import AddedRows
from finetune.robustness.row_groups import RowGroups, describe_groups, find_groups
from finetune.robustness.synthetic_rows import check_synthetic, extend_split
from finetune.semisupervised.unlabeled_rows import add_pseudo_labeled, check_pseudo_labels
from finetune.task import Task
from finetune.task_parts.samples import Lengths, each_row
from finetune.training.network import (
    build_network,
    choose_attention,
    first_batches,
    try_network,
)
from finetune.training.recipes import divides_batches, fill_defaults
from finetune.training.state import Live


class LabelCounts(NamedTuple):
    """How many rows or objects of a split have each label, and how many rows have none."""

    counts: Counter[str]
    unlabeled: int


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train, its held-out splits, and notes on how it was set up."""

    live: Live
    validation: Split | None
    test: Split | None
    reasons: dict[str, str]
    """{key: reason for its value} for each key left at null."""
    notes: list[str]
    lengths: dict[str, Lengths]
    labels: dict[str, LabelCounts]
    added: tuple[AddedRows, ...] = ()
    """Rows of live.train that no split has; `lengths` and `labels` leave them out."""

    @property
    def held_out(self) -> list[Split]:
        return [split for split in (self.validation, self.test) if split is not None]


def assemble(
    config: RunConfig,
    task: Task,
    splits: Splits,
    accelerator: Accelerator,
    shared: SharedRows | None = None,
) -> Prepared:
    """Load the network, apply the method, fill in defaults, shard if asked, and plan the steps."""
    method, shared = make_method(config.method), shared or SharedRows()
    # A task learns from its rows, its own keys (as given: the config of a resumed run has what was
    # learned), the network and whether that is frozen; no more.
    sections = (config.data, task.resolved_, config.model)
    key = (*(each.model_dump_json() for each in sections), method.freezes_backbone)
    notes = list(
        shared.once(
            (*key, "setup"),
            task,
            lambda: task.setup(splits.train, config.model, frozen=method.freezes_backbone),
        )
    )
    selected_metric(config.train.best, task.metric, task.views.metric_names())  # raises if unknown
    _check_labels(splits, task)
    _check_added_rows(config, task, splits.train)
    wanted = config.train.workers or 0
    if (workers := usable_workers(wanted)) < wanted:
        notes.append(
            f"workers: {workers} of train.workers={config.train.workers}, {WORKERS_PER_CORE} for "
            "each core of this machine"
        )
    batches = None
    if method.reads_batches:
        batches = first_batches(splits.train, task, config.train.seed, accelerator.device)
    model, model_notes = build_network(config, task, method, accelerator.device, batches)
    notes += model_notes
    if config.model.activation_checkpointing:
        model.checkpoint_activations()
    if config.train.compile and not compiles_on(accelerator.device):
        notes.append("compile: no effect on a CPU, where compiled steps are slower")
    if config.output.dtype != "float32" and not model.may_round:
        raise ConfigError(
            f"output.dtype: {config.output.dtype} is only for language models; leave it out"
        )
    config, reasons = fill_defaults(config, method, model, accelerator.device)
    config = config.model_copy(update={"task": task.resolved_})
    if config.optim.l1_head:
        head_weights(model)  # raises if there are none
    if config.train.shard and accelerator.num_processes > 1:
        check_sharding(config, task, method)
        notes.append(shard(model, accelerator.device, accelerator.num_processes))
    groups = method.param_groups(model, config.optim)

    parts, lengths, labels = dict[str, Split](), dict[str, Lengths](), dict[str, LabelCounts]()
    for name, rows in splits.named.items():
        parts[name], lengths[name], labels[name], split_notes = shared.once(
            (*key, "measured", name),
            task,
            partial(_measure, name, rows, task, splits.digests.get(name)),
        )
        notes += split_notes
    row_groups, group_notes = _row_groups(config, task, parts)
    classes, sampling_notes = _classes(config, task, parts["train"], row_groups)
    notes += [*group_notes, *sampling_notes]
    divides = config.train.batching == "random" and divides_batches(
        config.train.dropout, method, model, accelerator.device
    )
    plan = _plan(config, parts["train"], accelerator.num_processes, classes, divides=divides)
    separate = None if config.train.group_dro is None or row_groups is None else row_groups.ids
    plan = replace(plan, groups=separate)
    live = _live(config, task, method, model, groups, accelerator, parts["train"], plan)
    try_network(live)
    validation, test = parts.get("validation"), parts.get("test")
    return Prepared(live, validation, test, reasons, notes, lengths, labels)


def _measure(
    name: str, rows: Any, task: Task, digest: str | None
) -> tuple[Split, Lengths, LabelCounts, list[str]]:
    """Measure the rows of a split, or their parts, and count their labels; also return notes."""
    counts, unlabeled = task.rows.count_labels(rows)
    notes = [] if name == "train" else list(task.views.compare(name, rows))
    if name == "train" or task.measures_parts:
        parts, part_notes = split_into_parts(rows, task, name)
        rows, digest = parts, digest if parts is rows else None
        notes += part_notes
    split, lengths, skipped_notes = measure_split(name, rows, task, digest)
    return split, lengths, LabelCounts(counts, unlabeled), [*notes, *skipped_notes]


def caches_features(live: Live) -> bool:
    """True if the features that the head reads are computed once, before the first step."""
    return live.method.feature_cache is not None and live.model.cacheable


def cache_features(prepared: Prepared, console: Console) -> Prepared:
    """Attach cached features to every split, computed where missing; no-op without a cache."""
    live, notes = prepared.live, list(prepared.notes)
    if not caches_features(live):
        return prepared
    parts: dict[str, Split] = {}
    plan = _cache_plan(live)
    base = digest_model(live.model, plan.precision)
    if live.task.augments and plan.views == 1:
        notes.append(
            "augmentation: no effect on features that are cached once; method.views=8 caches eight "
            "augmented views of each row, method.cache=off augments on every step"
        )
    # Rows trained on in parts (tiles) are whole when held out: of varying size, so not cacheable.
    held_out = [] if isinstance(live.train.rows, PartRows) else prepared.held_out
    for split in (live.train, *held_out):
        split_plan = plan if split is live.train else replace(plan, views=1)
        parts[split.name], note = _features(live, split, split_plan, base, console)
        notes.append(note)
    return replace(
        prepared,
        live=replace(live, train=parts["train"]),
        validation=parts.get("validation", prepared.validation),
        test=parts.get("test", prepared.test),
        notes=notes,
    )


def join_unlabeled(prepared: Prepared, splits: Splits, console: Console) -> Prepared:
    """Join rows of data.unlabeled to train with pseudo-labels, if train.semi asks for it."""
    live = prepared.live
    config, semi = live.config.train, live.config.train.semi
    if semi is None:
        return prepared
    check_semi(live)
    assert splits.unlabeled is not None, "checked with the config"

    cache = _cache_plan(live)
    base = digest_model(live.model, cache.precision)

    def compute(split: Split, views: int) -> Split:
        return _features(live, split, replace(cache, views=views), base, console)[0]

    train, added, notes = add_pseudo_labeled(
        semi, config.seed, live.task, live.model, live.train, splits.unlabeled, compute
    )
    return _with_train(prepared, train, added, notes)


def check_semi(live: Live) -> None:
    """Raise ConfigError for train.semi in a run without cached features of whole rows."""
    if not caches_features(live) or isinstance(live.train.rows, PartRows):
        raise ConfigError(
            f"train.semi={live.config.train.semi}: needs cached features of whole rows, which this "
            "run does not have; use method.cache=auto with a head on one vector "
            "(task.head=pooled), or leave train.semi and data.unlabeled out"
        )


def add_synthetic_rows(prepared: Prepared) -> Prepared:
    """Add the rows that train.synthetic asks for to the cached features of the training split."""
    live = prepared.live
    kind, seed = live.config.train.synthetic, live.config.train.seed
    if kind is None:
        return prepared
    classes = classes_of(live.task, live.train.rows, f"train.synthetic={kind}")
    train, note = extend_split(live.train, classes, kind, seed)
    if train is live.train:  # all classes have the same size
        return _with_train(prepared, train, None, [note])
    made = train.rows.select(range(len(live.train), len(train)))  # type: ignore[attr-defined]
    counts = Counter(label for row in each_row(made) for label in live.task.rows.labels(row))
    added = AddedRows("synthetic", f"train.synthetic={kind}", counts)
    return _with_train(prepared, train, added, [note])


def _with_train(
    prepared: Prepared, train: Split, added: AddedRows | None, notes: Sequence[str]
) -> Prepared:
    """Replace the training split by one with more rows, and plan the steps again."""
    live = prepared.live
    classes, _ = _classes(live.config, live.task, train, None)
    processes, divides = live.accelerator.num_processes, live.plan.divides
    plan = _plan(live.config, train, processes, classes, divides=divides)
    steps = total_steps(live.config, live.method, plan.steps_per_epoch)
    live = replace(live, train=train, plan=plan, total_steps=steps)
    every = prepared.added if added is None else (*prepared.added, added)
    return replace(prepared, live=live, notes=[*prepared.notes, *notes], added=every)


def settle_attention(prepared: Prepared) -> Prepared:
    """Fill in train.matmul_attention, by measurement where it has an effect."""
    live = prepared.live
    if live.config.train.matmul_attention is not None:
        return prepared
    chosen, why = choose_attention(live)
    train = live.config.train.model_copy(update={"matmul_attention": chosen})
    live = replace(live, config=live.config.model_copy(update={"train": train}))
    reasons = {"train.matmul_attention": why} if why else {}
    return replace(prepared, live=live, reasons=prepared.reasons | reasons)


def _cache_plan(live: Live) -> CachePlan:
    train, cache = live.config.train, live.method.feature_cache
    assert cache is not None and train.precision is not None
    views = cache.views if live.task.augments else 1
    return CachePlan(train.precision, cache.limit_gib, views, train.seed)


def _features(
    live: Live, split: Split, plan: CachePlan, base: Any, console: Console
) -> tuple[Split, str]:
    title = f"features of {split.name}"
    with console.during(title):
        return attach_features(
            live.model,
            live.task,
            split,
            live.accelerator,
            plan,
            base,
            progress=lambda batches, total: console.track(batches, total, title),
        )


def total_steps(config: RunConfig, method: Method, steps_per_epoch: int) -> int:
    """Count the optimizer steps: max_steps overrides epochs, an exact solver takes one."""
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
    plan: TrainPlan,
) -> Live:
    optimizer = accelerator.prepare_optimizer(build_optimizer(config.optim, groups))
    steps = total_steps(config, method, plan.steps_per_epoch)
    ema = None
    if config.optim.ema is not None:
        ema = Ema(trained_parameters(optimizer), config.optim.ema)
    return Live(config, task, method, model, optimizer, accelerator, train, plan, steps, ema)


def _plan(
    config: RunConfig,
    train: Split,
    processes: int,
    classes: np.ndarray | None,
    *,
    divides: bool,
) -> TrainPlan:
    batch_size = config.train.batch_size
    return TrainPlan(
        train.lengths,
        batch_size,
        micro_batch_size=config.train.micro_batch or -(-batch_size // processes),
        seed=config.train.seed,
        by_length=config.train.batching == "length",
        processes=processes,
        classes=classes,
        divides=divides,
    )


def check_sharding(config: RunConfig, task: Task, method: Method) -> None:
    """Raise ConfigError for keys that are unsupported, or untested, together with train.shard."""
    optim, quantize = config.optim.name, config.model.quantize
    shardable = [name for name, kind in OPTIMIZERS.items() if kind.shards]
    faults = [method.sharding_fault]
    if optim not in shardable:
        faults.append(
            f"optim.name={optim} is not known to update a shard as it would the whole weight; use "
            f"{' or '.join(shardable)}"
        )
    if config.train.precision == "fp16":
        faults.append(
            "train.precision=fp16 needs a loss scaler, which is not supported; use bf16 or fp32"
        )
    if config.train.compile:
        faults.append("train.compile is not known to work on shards; leave train.compile out")
    if quantize is not None:
        faults.append(
            f"model.quantize={quantize} gives weights that cannot be sharded; leave model.quantize "
            "out"
        )
    faults.append(task.sharding_fault)
    for fault in filter(None, faults):
        raise ConfigError(f"train.shard: {fault}, or leave train.shard out")


def _row_groups(
    config: RunConfig, task: Task, parts: Mapping[str, Split]
) -> tuple[RowGroups | None, list[str]]:
    """Return the group of each training row, and notes on the groups of all splits.

    None without train.group_by. Raises DataError for a split without its column.
    """
    if config.train.group_by is None:
        return None, []
    found = {
        name: find_groups(split.rows, task, config.train.group_by) for name, split in parts.items()
    }
    held_out = [groups.too_small(name) for name, groups in found.items() if name != "train"]
    return found["train"], [describe_groups(found["train"]), *filter(None, held_out)]


def _classes(
    config: RunConfig, task: Task, train: Split, groups: RowGroups | None
) -> tuple[np.ndarray | None, list[str]]:
    """Return the class of each training row, int64 [N], for balanced sampling, and a note on it.

    With groups, these are the classes. None under other sampling. Raises ConfigError for rows
    without a class.
    """
    if config.train.sampling != "balanced":
        return None, []
    kind, classes = "classes", None if groups is None else groups.ids
    if classes is None:
        classes = classes_of(task, train.rows, "train.sampling=balanced")
    else:
        kind = "groups"
    sizes = np.bincount(classes)
    if config.method.solves_head:
        return classes, [f"sampling: balanced, {len(sizes)} {kind} of the same weight"]
    drawn = len(classes) / len(sizes)
    single = kind.removesuffix("es" if groups is None else "s")
    note = (
        f"sampling: balanced, {drawn:.4g} rows of each of {len(sizes)} {kind} per epoch; a row of "
        f"the rarest {single} is drawn {drawn / sizes.min():.2g} times on average, of the largest "
        f"{drawn / sizes.max():.2g} times"
    )
    return classes, [note]


def _check_added_rows(config: RunConfig, task: Task, rows: Any) -> None:
    """Raise ConfigError for rows that cannot be added to train, before anything is computed."""
    classes = check_classes(config, task, rows)
    semi, synthetic = config.train.semi, config.train.synthetic
    if semi is not None:
        check_pseudo_labels(semi, task)
    if synthetic is not None:
        assert classes is not None, "train.synthetic needs classes"
        check_synthetic(synthetic, classes)


def _check_labels(splits: Splits, task: Task) -> None:
    """Raise DataError for held-out rows with labels that train lacks."""
    for name, rows in splits.named.items():
        if name == "train":
            continue
        unseen = [faults for row in each_row(rows) if (faults := list(task.unseen(row)))]
        if unseen:
            raise DataError(
                f"{name}: {len(unseen)} of {len(rows)} rows cannot be evaluated (first: "
                f"{unseen[0][0]}); list all labels in task.labels, or remove those rows"
            )
