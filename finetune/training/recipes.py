"""The table of defaults: values for keys left at null, each with its reason.

They depend on the method and the kind of network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import FrozenConfig, RunConfig
from finetune.config.yaml import flatten
from finetune.distributed.precision import choose_precision
from finetune.model import TransferModel


@dataclass(frozen=True)
class Recipe:
    """Rates and length that train a kind of network well with a method."""

    lr: float
    head_lr: float
    epochs: float
    reason: str


_FROZEN = Recipe(
    1e-3, 1e-2, 30, "a new head on fixed features: steps are cheap, and a large rate is safe"
)
_LORA = Recipe(
    5e-4, 2e-3, 3, "LoRA adapters start at 0 and take about ten times the rate of full fine-tuning"
)
_PARTIAL = Recipe(1e-4, 1e-3, 3, "the last blocks take more change than the whole network")
_FULL = Recipe(
    5e-5,
    5e-4,
    3,
    "the usual rate for the whole of a pretrained encoder; ten times that for a new head",
)
_DETECTOR = "the head and the pyramid are new, and learn boxes from the beginning: more epochs"
_QUERIES = "the checkpoint finds boxes already, but its new classes learn slowly"
RECIPES: dict[tuple[str, str], Recipe] = {
    ("frozen", "encoder"): _FROZEN,
    ("lora", "encoder"): _LORA,
    ("partial", "encoder"): _PARTIAL,
    ("full", "encoder"): _FULL,
    ("frozen", "decoder"): _FROZEN,
    ("lora", "decoder"): Recipe(2e-4, 1e-3, 3, "the usual rate for LoRA on a language model"),
    ("partial", "decoder"): Recipe(5e-5, 5e-4, 3, _PARTIAL.reason),
    ("full", "decoder"): Recipe(2e-5, 2e-4, 3, "the usual rate for the whole of a language model"),
    ("frozen", "seq2seq"): _FROZEN,
    ("lora", "seq2seq"): Recipe(
        1e-3, 2e-3, 3, "LoRA on an encoder and a decoder: T5 and BART take larger rates than GPTs"
    ),
    ("partial", "seq2seq"): Recipe(1e-4, 1e-3, 3, _PARTIAL.reason),
    ("full", "seq2seq"): Recipe(
        1e-4, 1e-3, 3, "T5 wants 1e-4 to 3e-4 with AdamW; BART bears the lower end"
    ),
    ("frozen", "cnn"): Recipe(
        5e-4, 5e-4, 30, "features of a convolutional network are many and large, and soon overfit"
    ),
    ("lora", "cnn"): Recipe(2e-3, 5e-3, 5, "adapters of a convolutional network take a large rate"),
    ("partial", "cnn"): Recipe(5e-4, 2e-3, 5, _PARTIAL.reason),
    ("full", "cnn"): Recipe(5e-4, 2e-3, 5, "convolutional networks take larger rates"),
    ("frozen", "detector"): Recipe(1e-3, 1e-3, 30, _DETECTOR),
    ("lora", "detector"): Recipe(1e-3, 1e-3, 30, _DETECTOR),
    ("partial", "detector"): Recipe(5e-4, 1e-3, 30, _DETECTOR),
    ("full", "detector"): Recipe(5e-4, 1e-3, 30, _DETECTOR),
    ("frozen", "query-detector"): Recipe(1e-3, 1e-3, 20, _QUERIES),
    ("lora", "query-detector"): Recipe(5e-4, 1e-3, 20, _QUERIES),
    ("partial", "query-detector"): Recipe(1e-4, 5e-4, 20, _QUERIES),
    ("full", "query-detector"): Recipe(5e-5, 5e-4, 20, _QUERIES),
    ("frozen", "vit"): _FROZEN,
    ("lora", "vit"): Recipe(5e-4, 2e-3, 5, _LORA.reason),
    ("partial", "vit"): Recipe(1e-4, 1e-3, 5, _PARTIAL.reason),
    ("full", "vit"): Recipe(5e-5, 5e-4, 5, "the usual rate for the whole of a vision transformer"),
}
# From this size on, full fine-tuning at 5e-5 is often unstable (Devlin et al. 2019,
# searched 2e-5 to 5e-5). Below the other, compact encoders take up to 3e-4 (Turc et al. 2019,
# arXiv:1908.08962); the rates of vision networks above are for networks of that size.
LARGE, SMALL = 200_000_000, 50_000_000
LAYERED = 1e-3  # what a head of several layers bears
MOOT = "means nothing here, where nothing of the kind is trained"
TEXT_KINDS = ("encoder", "decoder")


def fill_defaults(
    config: RunConfig, model: TransferModel, device: torch.device
) -> tuple[RunConfig, dict[str, str]]:
    """The config without the nulls that this network decides, and {key: reason} of each."""
    kind = model.kind if ("full", model.kind) in RECIPES else "encoder"
    recipe = RECIPES[config.method.name, kind]
    factor, size = _factor_of_size(config.method.name, model, kind)
    reason = recipe.reason + size
    head_lr, layered = _head_rate(recipe.head_lr * factor, model)
    precision, precision_reason = choose_precision(config.train.precision, device)
    filled: dict[str, tuple[Any, str]] = {
        "train.precision": (precision, precision_reason),
        "optim.lr": (recipe.lr * factor, reason),
        "optim.head_lr": (head_lr, layered or reason),
        "optim.layer_decay": (1.0, "one rate for all blocks"),
    }
    tunes = isinstance(config.method, FrozenConfig) and config.method.contrastive > 0
    if tunes:
        usual = RECIPES["full", kind]
        factor, size = _factor_of_size("full", model, kind)
        filled["optim.lr"] = (usual.lr * factor, f"of contrastive tuning: {usual.reason}{size}")
    elif config.optim.lr is not None and config.optim.head_lr is None:
        only_head = config.method.name == "frozen"
        ratio = 1 if only_head else recipe.head_lr / recipe.lr
        why = "the only rate there is" if only_head else f"{ratio:g} times optim.lr, for a new head"
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
    moot = _moot_keys(config, model)
    return replace(config, {key: value for key, (value, _) in chosen.items()}), {
        key: MOOT if key in moot else why for key, (_, why) in chosen.items()
    }


def _moot_keys(config: RunConfig, model: TransferModel) -> set[str]:
    """Keys for what this run does not train, or this network does not have."""
    found = set[str]()
    if isinstance(config.method, FrozenConfig) and not config.method.contrastive:
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


def _factor_of_size(method: str, model: TransferModel, kind: str) -> tuple[float, str]:
    """What a rate for networks of the usual size is multiplied by, and why."""
    parameters = sum(p.numel() for p in model.network.parameters())
    if method == "frozen":  # The rate is the head's alone.
        return 1, ""
    if parameters > LARGE and method != "lora":  # Adapters of large networks keep their rate.
        return 0.4, f", less for {parameters / 1e6:.0f} M parameters"
    if parameters < SMALL and kind in TEXT_KINDS:
        return 2, f", twice that for only {parameters / 1e6:.3g} M parameters"
    return 1, ""


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
