"""Defaults for keys left at null, each with its reason, by method and kind of network."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten
from finetune.distributed.compilation import compiles_on
from finetune.distributed.devices import core_count
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError
from finetune.methods.base import Method, Recipe
from finetune.methods.full import Full
from finetune.model import TransferModel
from finetune.reporting.run_facts import NOT_APPLICABLE

MOST_WORKERS = 8  # that decode images
LAYERED_HEAD_LR = 1e-3  # the highest stable rate for a head of several new layers


def fill_defaults(
    config: RunConfig, method: Method, model: TransferModel, device: torch.device
) -> tuple[RunConfig, dict[str, str]]:
    """Replace the nulls whose defaults depend on the network; also return {key: reason}.

    Raises ModelError if the method has no default rates for this kind of network and some are
    needed.
    """
    recipe, reason = _recipe(config, method, model)
    head_lr, layered = _head_rate(recipe.head_lr, model)
    precision, precision_reason = choose_precision(config.train.precision, device)
    filled: dict[str, tuple[Any, str]] = {
        "train.precision": (precision, precision_reason),
        "train.dropout": (dropout := _dropout(config, model, device)),
        "train.batching": _batching(config, dropout[0], method, model, device),
        "optim.lr": (recipe.lr, reason),
        "optim.head_lr": (head_lr, layered or reason),
        "optim.layer_decay": (1.0, "the same rate for all blocks"),
    }
    if workers := _workers(config, method, device):
        filled["train.workers"] = workers, "images are decoded while the network computes"
    if method.contrastive is not None:
        tuning, why = _recipe(config, Full(), model)
        filled["optim.lr"] = (tuning.lr, f"for contrastive tuning: {why}")
    elif config.optim.lr is not None and config.optim.head_lr is None:
        unscaled = method.recipe(model.kind)
        ratio = 1 if method.freezes_backbone else unscaled.head_lr / unscaled.lr
        why = f"{ratio:g} times optim.lr, for a new head"
        if method.freezes_backbone:
            why = "same as optim.lr: only the head is trained"
        filled["optim.head_lr"] = (config.optim.lr * ratio, why)
    if config.train.max_steps is None:
        filled["train.epochs"] = (recipe.epochs, f"default for method={config.method.name}")
    values = flatten(config)
    if "method.batch_norm" in values:
        why = (
            "pretrained statistics are kept: batches hold few images"
            if model.batch_norm == "freeze"
            else "default for this network"
        )
        filled["method.batch_norm"] = (model.batch_norm, why)
    chosen = {key: value for key, value in filled.items() if values[key] is None}
    unused = _unused_keys(method, model)
    return _replace_keys(config, {key: value for key, (value, _) in chosen.items()}), {
        key: NOT_APPLICABLE if key in unused else why for key, (_, why) in chosen.items()
    }


def _dropout(config: RunConfig, model: TransferModel, device: torch.device) -> tuple[str, str]:
    """Return how dropout masks are drawn by default, and the reason. Raises ConfigError."""
    if config.train.dropout == "by-sample" and model.packs_rows:
        raise ConfigError(
            "train.dropout=by-sample: rows are packed, several into one sequence; add "
            "task.packing=false, or leave train.dropout out"
        )
    if config.train.dropout == "by-sample" and config.train.compile and compiles_on(device):
        raise ConfigError(
            "train.dropout=by-sample: its masks cannot be compiled; leave it out, or leave "
            "train.compile out"
        )
    if model.packs_rows:
        return "by-batch", "rows are packed"
    if device.type != "cpu":
        return "by-batch", "torch's own; by-sample is the same for any micro-batches"
    return "by-sample", "the same result for any micro-batches and processes"


def _batching(
    config: RunConfig, dropout: str, method: Method, model: TransferModel, device: torch.device
) -> tuple[str, str]:
    """Return how rows are put into batches by default, and the reason."""
    if divides_batches(config.train.dropout or dropout, method, model, device):
        return "random", "micro-batches of similar length save the padding"
    return "length", "rows of similar length save padding"


def divides_batches(
    dropout: str | None, method: Method, model: TransferModel, device: torch.device
) -> bool:
    """True if random batches are divided into micro-batches of similar length.

    A GPU computes many small ones slowly. With other masks than those by sample, or BatchNorm, the
    division would change the result; of a frozen backbone, only the head would be computed.
    """
    is_exact = dropout == "by-sample" and not any(
        isinstance(module, _BatchNorm) for module in model.network.modules()
    )
    return device.type == "cpu" and is_exact and not method.freezes_backbone


def _workers(config: RunConfig, method: Method, device: torch.device) -> int:
    """Return the number of processes that load batches by default."""
    reads_images = config.task.reads_images and method.feature_cache is None
    cores = core_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cpu" or not reads_images or cores < 2:
        return 0
    return min(MOST_WORKERS, cores - 1)


def _unused_keys(method: Method, model: TransferModel) -> set[str]:
    """Return the keys without effect: on what is not trained, or on parts the network lacks."""
    unused = set[str]()
    if method.freezes_backbone and method.contrastive is None:
        unused |= {"optim.lr", "optim.layer_decay"}
    if not model.heads:
        unused.add("optim.head_lr")
    if not any(isinstance(module, _BatchNorm) for module in model.network.modules()):
        unused.add("method.batch_norm")
    return unused


def _head_rate(rate: float, model: TransferModel) -> tuple[float, str]:
    """Return the rate of the head, and the reason if it is capped.

    Several new layers on top of each other, such as a segmentation decoder, diverge at a rate that
    is fine for a single layer.
    """
    parts = [model.network.get_submodule(name) for name in model.heads]
    layers = sum(parameter.ndim > 1 for part in parts for parameter in part.parameters())
    if layers < 2 or rate <= LAYERED_HEAD_LR:
        return rate, ""
    return LAYERED_HEAD_LR, f"capped for a head of {layers} new layers"


def _recipe(config: RunConfig, method: Method, model: TransferModel) -> tuple[Recipe, str]:
    """Return rates and epochs for a network of this kind and size, and the reason."""
    optim, train = config.optim, config.train
    has_rates = optim.lr is not None and optim.head_lr is not None
    if has_rates and (train.epochs is not None or train.max_steps is not None):
        return Recipe(float(optim.lr or 0), float(optim.head_lr or 0), 0, ""), ""
    recipe = method.recipe(model.kind)
    parameters = sum(p.numel() for p in model.network.parameters())
    factor, size_note = method.rate_for_size(parameters, model.kind)
    scaled = recipe._replace(lr=recipe.lr * factor, head_lr=recipe.head_lr * factor)
    return scaled, recipe.reason + size_note


def _replace_keys(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return a copy of the config with some "section.key" values changed."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        by_section.setdefault(section, {})[leaf] = value
    changed = {
        name: getattr(config, name).model_copy(update=leaves) for name, leaves in by_section.items()
    }
    return config.model_copy(update=changed)
