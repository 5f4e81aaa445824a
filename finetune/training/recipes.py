"""Defaults for keys left at null, each with its reason, by the method and the kind of network."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten
from finetune.distributed.precision import choose_precision
from finetune.methods.base import Method, Recipe
from finetune.methods.full import Full
from finetune.model import TransferModel

LAYERED = 1e-3  # what a head of several layers bears
MOOT = "means nothing here, where nothing of the kind is trained"


def fill_defaults(
    config: RunConfig, method: Method, model: TransferModel, device: torch.device
) -> tuple[RunConfig, dict[str, str]]:
    """The config without the nulls that this network decides, and {key: reason} of each.

    Raises ModelError if the method has no default rates for this kind of network and some are
    left open.
    """
    recipe, reason = _recipe(config, method, model)
    head_lr, layered = _head_rate(recipe.head_lr, model)
    precision, precision_reason = choose_precision(config.train.precision, device)
    filled: dict[str, tuple[Any, str]] = {
        "train.precision": (precision, precision_reason),
        "optim.lr": (recipe.lr, reason),
        "optim.head_lr": (head_lr, layered or reason),
        "optim.layer_decay": (1.0, "one rate for all blocks"),
    }
    if method.contrastive is not None:
        tuning, why = _recipe(config, Full(), model)
        filled["optim.lr"] = (tuning.lr, f"of contrastive tuning: {why}")
    elif config.optim.lr is not None and config.optim.head_lr is None:
        usual = method.recipe(model.kind)
        ratio = 1 if method.freezes_backbone else usual.head_lr / usual.lr
        why = f"{ratio:g} times optim.lr, for a new head"
        if method.freezes_backbone:
            why = "the only rate there is"
        filled["optim.head_lr"] = (config.optim.lr * ratio, why)
    if config.train.max_steps is None:
        filled["train.epochs"] = (recipe.epochs, f"usual for method={config.method.name}")
    held = flatten(config)
    if "method.batch_norm" in held:
        why = (
            "as pretrained: batches of few images" if model.batch_norm == "freeze" else "the usual"
        )
        filled["method.batch_norm"] = (model.batch_norm, why)
    chosen = {key: value for key, value in filled.items() if held[key] is None}
    moot = _moot_keys(method, model)
    return replace(config, {key: value for key, (value, _) in chosen.items()}), {
        key: MOOT if key in moot else why for key, (_, why) in chosen.items()
    }


def _moot_keys(method: Method, model: TransferModel) -> set[str]:
    """Keys for what this run does not train, or this network does not have."""
    found = set[str]()
    if method.freezes_backbone and method.contrastive is None:
        found |= {"optim.lr", "optim.layer_decay"}
    if not model.heads:
        found.add("optim.head_lr")
    if not any(isinstance(module, _BatchNorm) for module in model.network.modules()):
        found.add("method.batch_norm")
    return found


def _head_rate(usual: float, model: TransferModel) -> tuple[float, str]:
    """The rate of the head, and why, if it is not the usual one: layers upon layers that are all
    new, such as a decoder of segmentation, diverge at what a single layer bears.
    """
    parts = [model.network.get_submodule(name) for name in model.heads]
    layers = sum(parameter.ndim > 1 for part in parts for parameter in part.parameters())
    if layers < 2 or usual <= LAYERED:
        return usual, ""
    return LAYERED, f"a head of {layers} new layers takes no more"


def _recipe(config: RunConfig, method: Method, model: TransferModel) -> tuple[Recipe, str]:
    """The rates and epochs that suit a network of this kind and size, and why."""
    optim, train = config.optim, config.train
    is_told = optim.lr is not None and optim.head_lr is not None
    if is_told and (train.epochs is not None or train.max_steps is not None):
        return Recipe(float(optim.lr or 0), float(optim.head_lr or 0), 0, ""), ""
    found = method.recipe(model.kind)
    parameters = sum(p.numel() for p in model.network.parameters())
    factor, size = method.rate_for_size(parameters, model.kind)
    scaled = found._replace(lr=found.lr * factor, head_lr=found.head_lr * factor)
    return scaled, found.reason + size


def replace(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """The config with some "section.key" values changed."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        by_section.setdefault(section, {})[leaf] = value
    changed = {
        name: getattr(config, name).model_copy(update=leaves) for name, leaves in by_section.items()
    }
    return config.model_copy(update=changed)
