"""Faults of the files of a pretrained network: before, while and after a library loads them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.config.model_folders import CONFIG, read_model_config
from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.integrity import restoring
from finetune.io.manifest import check_state

# Keys of a config by which a library builds objects or divides its input, and the most that are
# plausible: a billion of them is one line long, and takes hours or ends in the library.
_MOST = {
    re.compile(r"layers?$|_blocks$|depths?$|^convolutions$"): 2_000,
    re.compile(r"^num_labels$|heads?$|queries$|strides?$|kernels?$|kernel_sizes?$"): 100_000,
}
_LARGEST = torch.finfo(torch.float32).max
_PROBABILITY = re.compile(r"dropout|drop_?path|_dropout_prob$")
_PICKLE = (
    "Its weights are a pickle that contains more than tensors; a pickle may run any code, so it is "
    "not loaded. Ask for safetensors, which the owner of the model writes with "
    'safetensors.torch.save_file(model.state_dict(), "model.safetensors").'
)
HEAD_FILE = "head.safetensors"
"""A head beside the network of a final model."""
_UNNAMED = re.compile(r"LABEL_\d")
_LONGEST = 300  # characters of another library's message


def check_network_config(config: Mapping[str, Any], *_: Any) -> None:
    """Raise ModelError for code on a hub, and for numbers that no network has.

    Checked before the library reads it, which would build what it says.
    """
    for key, value in config.items():
        if key.endswith("attn_implementation") and "/" in str(value):
            raise ModelError(
                f"config.json names the attention kernel {value!r}, which is code of a hub and is "
                f"not run; remove {key} from it, or choose one with model.attention"
            )
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Mapping):
                check_network_config(each)
            elif isinstance(each, int | float) and (fault := _number_fault(key, each)):
                is_long = isinstance(each, int) and abs(each) > sys.maxsize  # not a float
                shown = "(a long number)" if is_long else f"{each:.3g}"
                raise ModelError(f"config.json has {key}={shown}, {fault}; correct it")


def _number_fault(key: str, value: float) -> str:
    """Return what is wrong with a number in a network's config; "" if nothing is."""
    if value != value:  # math.isnan overflows for long integers
        return "not a number"
    if abs(value) > _LARGEST and value != math.inf:  # some limits are infinite
        return "above the largest number of a network"
    if _PROBABILITY.search(key) and not 0 <= value <= 1:
        return "not a probability between 0 and 1"
    limits = [most for pattern, most in _MOST.items() if pattern.search(key)]
    return f"above {limits[0]:,}" if limits and value > limits[0] else ""


def check_outputs(outputs: int, names: Sequence[str], source: ModelConfig) -> None:
    """Raise ModelError if the network of a final model has other outputs than the labels of a task.

    Its predictions would have the names of other labels.
    """
    folder = Path(source.name)
    if outputs != len(names):
        raise ModelError(
            f"{folder / 'task.json'}: lists {len(names)} labels, but the network has {outputs} "
            f"outputs; the file is damaged or of another model: {restoring(folder)}"
        )
    known = saved_labels(folder)
    if not known:
        check_state(folder)
    for place, (name, other) in enumerate(zip(names, known, strict=False)):
        if name != other:
            raise ModelError(
                f"{folder / 'task.json'}: label {place} is {name!r}, but {other!r} in {CONFIG}; if "
                f"you renamed it, write the same name into both, else {restoring(folder)}"
            )


def saved_labels(folder: Path) -> list[str]:
    """Return the labels that the config.json of a final model names; [] if it has none.

    That of a backbone, whose head is in a file of its own, may have those of another task.
    """
    config = read_model_config(folder)
    indexed = config.get("id2label")
    labels = config.get("label_names") or config.get("labels")
    if isinstance(indexed, dict):
        labels = [indexed.get(str(index)) for index in range(len(indexed))]
    if not isinstance(labels, list) or (folder / HEAD_FILE).is_file():
        return []
    is_named = all(isinstance(each, str) and not _UNNAMED.match(each) for each in labels)
    return labels if is_named else []


def describe_fault(error: BaseException) -> str:
    """Return the reason why a library cannot load a model, in one line.

    The libraries suggest loading a pickle that they refuse without its protection; this does not.
    """
    text = str(error).strip()
    if "weights_only" in text or type(error).__name__ == "UnpicklingError":
        return _PICKLE
    if "ignore_mismatched_sizes" in text:  # the report that it points to is of the logger
        return "its weights have other shapes than its config.json says"
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
