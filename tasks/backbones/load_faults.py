"""Faults of the files of a pretrained network: before, while and after a library loads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError

# Keys of a config by which a library builds one object each, and the most that are plausible.
_COUNT = re.compile(r"layers?$|^num_labels$|_blocks$|depth$")
_MOST = 100_000
_PICKLE = (
    "Its weights are a pickle that contains more than tensors; a pickle may run any code, so it is "
    "not loaded. Ask for safetensors, which the owner of the model writes with "
    'safetensors.torch.save_file(model.state_dict(), "model.safetensors").'
)
_LONGEST = 300  # characters of another library's message


def check_network_config(config: Mapping[str, Any], *_: Any) -> None:
    """Raise ModelError for code on a hub, for NaN, and for sizes that would fill the memory.

    Checked before the library reads it: a config of a billion labels or layers is one line long.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_network_config(value)
        elif key.endswith("attn_implementation") and "/" in str(value):
            raise ModelError(
                f"config.json names the attention kernel {value!r}, which is code of a hub and is "
                f"not run; remove {key} from it, or choose one with model.attention"
            )
        elif isinstance(value, int) and _COUNT.search(key) and value > _MOST:
            raise ModelError(f"config.json has {key}={value:.3g}, above {_MOST:,}; correct it")
        elif isinstance(value, float) and math.isnan(value):
            raise ModelError(f"config.json has {key}=NaN; write the number that is meant")


def describe_fault(error: BaseException) -> str:
    """Return the reason why a library cannot load a model, in one line.

    The libraries suggest loading a pickle that they refuse without its protection; this does not.
    """
    text = str(error).strip()
    if "weights_only" in text or type(error).__name__ == "UnpicklingError":
        return _PICKLE
    first = next(iter(text.splitlines()), "")[:_LONGEST]
    is_clear = isinstance(error, OSError | ValueError | RuntimeError | ImportError) and first
    return first if is_clear else f"{type(error).__name__}: {first}".rstrip(": ")


def check_loaded(network: Any, info: Mapping[str, Any], source: ModelConfig) -> None:
    """Raise ModelError if most tensors of a network were not in the files, and thus are random."""
    total, new = len(network.state_dict()), len(info["missing_keys"]) + len(info["mismatched_keys"])
    if new > total / 2:
        raise ModelError(
            f"model.name: {source.name!r} has weights for {total - new} of the {total} tensors of "
            f"{type(network).__name__}, and the others would be random; its config.json and its "
            "weights belong to different networks, so give those of one"
        )
