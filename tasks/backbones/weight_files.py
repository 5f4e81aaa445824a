"""Loading of a weight file into a network: safetensors, or a torch file that contains only tensors.

Tensors are matched by name, or by order if every shape agrees: another library's file of the same
architecture has other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import timm
from torch import Tensor, nn

from finetune.errors import ModelError, listed
from finetune.io.references import locate
from tasks.backbones.load_faults import describe_fault
from tasks.backbones.seams import is_within

_LISTED = 3


def load_weight_file(
    network: nn.Module, reference: str, match: Literal["name", "order"], heads: Sequence[str]
) -> None:
    """Load the tensors of a file into a network, except those of its heads, which are new.

    Raises ModelError if the file cannot be read, or if its tensors do not match the network's.
    """
    state = _read(reference)
    expected: dict[str, Tensor] = dict(network.state_dict())
    ordered = _in_order(state, expected, reference, heads) if match == "order" else state
    body = {name: tensor for name, tensor in ordered.items() if not is_within(name, heads)}
    missing = [
        name
        for name in expected
        if name not in body and not is_within(name, heads) and not _is_step_count(name)
    ]
    unexpected = [name for name in body if name not in expected]
    if missing or unexpected:
        absent, extra = (listed(names, _LISTED) or "none" for names in (missing, unexpected))
        raise ModelError(
            f"model.weights: the names in {reference} do not match those of the network "
            f"(missing: {absent}; unexpected: {extra}); try model.match=order"
        )
    _check_shapes(body, expected, reference)
    network.load_state_dict(body, strict=False)


def _in_order(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    reference: str,
    heads: Sequence[str],
) -> dict[str, Tensor]:
    """Rename the tensors of a file by order. BatchNorm's step counts may be missing."""
    ours = [name for name in expected if not _is_step_count(name)]
    theirs = [name for name in state if not _is_step_count(name)]
    if len(ours) != len(theirs):
        raise ModelError(
            f"model.weights: {reference} has {len(theirs)} tensors, the network has {len(ours)}; "
            "the weights belong to another architecture"
        )
    renamed = dict(zip(ours, theirs, strict=True))
    body = {name: state[other] for name, other in renamed.items() if not is_within(name, heads)}
    _check_shapes(body, expected, reference, renamed)
    return body


def _check_shapes(
    body: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    reference: str,
    renamed: Mapping[str, str] | None = None,
) -> None:
    for name, tensor in body.items():
        if tensor.shape != expected[name].shape:
            other = (renamed or {}).get(name, name)
            raise ModelError(
                f"model.weights: {reference} has {other} of shape {tuple(tensor.shape)}, but the "
                f"network has {name} of shape {tuple(expected[name].shape)}"
            )


def _read(reference: str) -> dict[str, Tensor]:
    path = locate(reference, ModelError) or Path(reference)
    if not path.is_file():
        raise ModelError(f"model.weights: {reference} is not a file")
    try:
        # Reads safetensors as well, and extracts the weights from a training checkpoint.
        state = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # as of any file of another content
        fault = describe_fault(error)
        if isinstance(error, KeyError | EOFError):
            fault = f"it is damaged, or no file of safetensors or of torch ({fault})"
        raise ModelError(f"model.weights: {reference} cannot be read: {fault}") from error
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"model.weights: {reference} contains no named tensors")
    return tensors


def _is_step_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")
