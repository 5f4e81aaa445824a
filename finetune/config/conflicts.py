"""Keys that are empty, that exclude each other, or that have no effect together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from finetune.config.best_metric import WORST_GROUP, best_faults
from finetune.config.schema import RunConfig
from finetune.errors import raise_for_faults

SMALLEST_CONTRASTIVE_BATCH = 4
"""Two rows of each of two classes: a smaller batch lacks a positive or a negative pair."""


_NEEDS_GROUPS = "needs groups of rows; name their column, as in train.group_by=source"
_HARMLESS = ("none", "last")
"""Values that turn a key off."""


class MethodFacts(Protocol):
    """Facts about a method, from its config or from its class; see `MethodConfig`."""

    @property
    def takes_quantized(self) -> bool: ...
    @property
    def freezes_backbone(self) -> bool: ...
    @property
    def tunes_backbone(self) -> bool: ...
    @property
    def solves_head(self) -> bool: ...


def check_conflicts(config: RunConfig, method: MethodFacts) -> None:
    """Raise ConfigError for empty keys, and keys that exclude each other or have no effect."""
    faults = [*_empty_keys(config), *config.task.key_faults(), *_exclusions(config, method)]
    faults += _semi_faults(config, method)
    for applies, keys, why in _rules(config, method):
        for key in keys if applies else ():
            section, _, leaf = key.partition(".")
            values = getattr(config, section)
            value, default = getattr(values, leaf), type(values).model_fields[leaf].default
            if value not in (default, *_HARMLESS):
                faults.append(f"{key}={value}: {why}")
    raise_for_faults("the config", faults)


def _rules(config: RunConfig, method: MethodFacts) -> list[tuple[bool, tuple[str, ...], str]]:
    """Return (condition, keys that must then have their default, reason and remedy)."""
    freezes = method.freezes_backbone and not method.tunes_backbone
    return [
        (
            not config.task.may_have_labels,
            ("train.sampling", "data.per_class", "output.calibrate"),
            "needs rows with classes, which this task lacks; leave it out",
        ),
        (
            not config.task.may_round,
            ("output.dtype",),
            "only weights of language models may be rounded; leave it out",
        ),
        (
            config.data.validation == 0,
            ("train.early_stopping", "train.best", "output.calibrate"),
            "is computed on a validation split, and there is none with data.validation=0; leave "
            "one of the two out",
        ),
        (
            config.train.evaluate_every == "never",
            ("train.early_stopping",),
            "counts evaluations, and there are none with train.evaluate_every=never; leave one of "
            "the two out",
        ),
        (
            not method.freezes_backbone,
            ("train.synthetic",),
            "makes features of a frozen backbone; use method=frozen, or train.sampling=balanced",
        ),
        (
            config.train.sampling == "balanced" or config.train.group_dro is not None,
            ("train.synthetic",),
            "evens out the classes, as train.sampling=balanced and train.group_dro do; use one of "
            "them",
        ),
        (
            config.train.semi is not None,
            ("train.group_by", "train.synthetic"),
            "is not combined with train.semi, whose rows have neither label nor group; leave one "
            "of the two out",
        ),
        (
            config.train.group_by is None,
            ("train.group_dro",),
            _NEEDS_GROUPS,
        ),
        (
            freezes,
            ("model.dropout", "model.drop_path"),
            "method=frozen runs the backbone in evaluation mode, without dropout; leave it out, "
            "or use method=lora, partial or full, or method.contrastive",
        ),
        (
            method.solves_head,
            ("train.group_dro", "optim.l1_head", "optim.ema"),
            "no effect with method.solver=exact, which takes no steps; leave it out, or use "
            "method.solver=loop",
        ),
    ]


def _exclusions(config: RunConfig, method: MethodFacts) -> Iterator[str]:
    """Yield the faults of values that exclude each other."""
    data, quantize = config.data, config.model.quantize
    if quantize and (not method.takes_quantized or method.tunes_backbone):
        yield (
            f"model.quantize={quantize}: quantized weights cannot be trained with "
            f"method={config.method.name}; use method=lora, or leave model.quantize out"
        )
    best = config.train.best or ""
    if best.lstrip("+-").startswith(WORST_GROUP) and config.train.group_by is None:
        yield f"train.best={best}: {_NEEDS_GROUPS}"
    if not getattr(config.task, "metrics", None):  # those that users add have any name
        yield from best_faults(config.train.best, config.task.metric_names)
    if sum(share for share in (data.validation, data.test) if isinstance(share, float)) >= 1:
        yield (
            f"data.validation={data.validation} + data.test={data.test}: no rows left for "
            "training; the sum must be less than 1"
        )
    if method.tunes_backbone and config.train.batch_size < SMALLEST_CONTRASTIVE_BATCH:
        yield (
            f"method.contrastive: a step compares the rows of a batch, and train.batch_size="
            f"{config.train.batch_size} is too small; set it to {SMALLEST_CONTRASTIVE_BATCH} or "
            "more"
        )


def _semi_faults(config: RunConfig, method: MethodFacts) -> Iterator[str]:
    """Yield the faults of train.semi and data.unlabeled, which need each other."""
    semi, unlabeled = config.train.semi, config.data.unlabeled
    if semi is None:
        if unlabeled is not None:
            yield (
                f"data.unlabeled={unlabeled}: nothing uses these rows; add train.semi=self-training"
                ", label-spreading, gan or fixmatch, or leave data.unlabeled out"
            )
        return
    if unlabeled is None:
        yield f"train.semi={semi}: needs rows without labels; add data.unlabeled=FILE"
    if not config.task.may_have_labels:
        yield f"train.semi={semi}: needs rows with classes, which this task lacks; leave it out"
    if not method.freezes_backbone or method.tunes_backbone:
        name = "method.contrastive" if method.tunes_backbone else f"method={config.method.name}"
        yield (
            f"train.semi={semi}: reads features of a frozen backbone, which {name} changes; use "
            "method=frozen alone, or leave train.semi and data.unlabeled out"
        )


def _empty_keys(config: RunConfig) -> Iterator[str]:
    """Yield the faults of texts such as data.field="", which name nothing."""
    for name in type(config).model_fields:
        section = getattr(config, name)
        for key, field in type(section).model_fields.items():
            is_blank = getattr(section, key) == "" and field.default is None
            if is_blank and key not in section.blank_keys:
                yield f"{name}.{key}: is empty; give a value, or leave the key out"
