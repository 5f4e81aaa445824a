"""Overrides of the dropout and stochastic depth of a pretrained network."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError

# Names in transformers configs: hidden_dropout_prob, attn_pdrop, dropout_rate, drop_path_rate; not
# layerdrop, which drops whole layers.
_NAMES = {"dropout": re.compile("dropout|_pdrop$"), "drop_path": re.compile("drop_path")}


def config_keys(source: ModelConfig, config: Any) -> dict[str, float]:
    """Return the keys of a transformers config that model.dropout and model.drop_path set.

    Raises ModelError if the config has none.
    """
    keys: dict[str, float] = {}
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
        keys |= dict.fromkeys(names, share)
    return keys


def timm_arguments(source: ModelConfig, *, classifies: bool) -> dict[str, float]:
    """Return arguments of timm.create_model for model.dropout and model.drop_path.

    timm applies dropout before the classifier. Raises ModelError if the classifier is cut off, as
    dropout would have no effect.
    """
    if source.dropout is not None and not classifies:
        raise _none("dropout", source)
    arguments = {"drop_rate": source.dropout, "drop_path_rate": source.drop_path}
    return {name: share for name, share in arguments.items() if share is not None}


def check_drop_path(source: ModelConfig, network: nn.Module) -> None:
    """Raise ModelError if model.drop_path is set but the timm network has no stochastic depth."""
    drops = any(type(module).__name__ == "DropPath" for module in network.modules())
    if source.drop_path and not drops:
        raise _none("drop_path", source)


def raise_for_drop_path(source: ModelConfig, error: Exception) -> None:
    """Raise ModelError if `error` means that a timm network does not support model.drop_path."""
    if source.drop_path is not None and "drop_path_rate" in str(error):
        raise _none("drop_path", source) from error


def _none(key: str, source: ModelConfig) -> ModelError:
    what = "dropout" if key == "dropout" else "stochastic depth"
    return ModelError(
        f"model.{key}={getattr(source, key)}: {source.name} has no {what} in the parts used here; "
        "remove the key"
    )
