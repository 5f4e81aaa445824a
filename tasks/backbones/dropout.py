"""Dropout and stochastic depth of a pretrained network, other than what it was trained with."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError

# What the configs of transformers call them: hidden_dropout_prob, attn_pdrop, dropout_rate,
# drop_path_rate; not layerdrop, which leaves out whole layers.
_NAMES = {"dropout": re.compile("dropout|_pdrop$"), "drop_path": re.compile("drop_path")}


def config_keys(source: ModelConfig, config: Any) -> dict[str, float]:
    """The keys of a config of transformers that model.dropout and model.drop_path set.

    Raises ModelError if it has none.
    """
    found: dict[str, float] = {}
    for key, pattern in _NAMES.items():
        share = getattr(source, key)
        if share is None:
            continue
        names = [
            name
            for name, value in config.to_dict().items()
            if pattern.search(name) and isinstance(value, float | int) and value is not True
        ]
        if not names:
            raise _none(key, source)
        found |= dict.fromkeys(names, share)
    return found


def timm_arguments(source: ModelConfig, *, classifies: bool) -> dict[str, float]:
    """What timm.create_model is given for model.dropout and model.drop_path.

    timm's networks drop out before their classifier, so one that is cut off drops nothing. Raises
    ModelError then.
    """
    if source.dropout is not None and not classifies:
        raise _none("dropout", source)
    given = {"drop_rate": source.dropout, "drop_path_rate": source.drop_path}
    return {name: share for name, share in given.items() if share is not None}


def check_drop_path(source: ModelConfig, network: nn.Module) -> None:
    """Raise ModelError if a network of timm was asked to leave out branches, and does not."""
    drops = any(type(module).__name__ == "DropPath" for module in network.modules())
    if source.drop_path and not drops:
        raise _none("drop_path", source)


def refuse_drop_path(source: ModelConfig, error: Exception) -> None:
    """Raise ModelError if that is why timm could not make the network."""
    if source.drop_path is not None and "drop_path_rate" in str(error):
        raise _none("drop_path", source) from error


def _none(key: str, source: ModelConfig) -> ModelError:
    what = "dropout" if key == "dropout" else "stochastic depth"
    return ModelError(
        f"model.{key}={getattr(source, key)}: {source.name} has no {what} as it is used here; "
        "leave it out"
    )
