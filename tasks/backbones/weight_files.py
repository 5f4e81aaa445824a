"""A file of weights -> a network: safetensors, or a torch file that may hold nothing but tensors.

Tensors find their places by name, or in order if every shape agrees: another library's file of the
same architecture has other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import timm
from torch import Tensor, nn

from finetune.errors import ModelError, listed
from finetune.io.references import locate
from tasks.backbones.seams import lies_in

_LISTED = 3


def load_weight_file(
    network: nn.Module, reference: str, match: Literal["name", "order"], heads: Sequence[str]
) -> None:
    """Put the tensors of a file into a network, all but those of its heads, which are new.

    Raises ModelError if the file cannot be read, or if a tensor has no place or a place no tensor.
    """
    given = _read(reference)
    wanted: dict[str, Tensor] = dict(network.state_dict())
    ordered = _in_order(given, wanted, reference, heads) if match == "order" else given
    placed = {name: tensor for name, tensor in ordered.items() if not lies_in(name, heads)}
    missing = [n for n in wanted if n not in placed and not lies_in(n, heads) and not _counts(n)]
    odd = [name for name in placed if name not in wanted]
    if missing or odd:
        lacking, loose = (listed(names, _LISTED) or "none" for names in (missing, odd))
        raise ModelError(
            f"model.weights: the names in {reference} are not those of the network: "
            f"{lacking} missing, {loose} without a place; try model.match=order"
        )
    _check_shapes(placed, wanted, reference)
    network.load_state_dict(placed, strict=False)


def _in_order(
    given: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    reference: str,
    heads: Sequence[str],
) -> dict[str, Tensor]:
    """The given tensors under the wanted names. BatchNorm's step counts may be missing."""
    here = [name for name in wanted if not _counts(name)]
    there = [name for name in given if not _counts(name)]
    if len(here) != len(there):
        raise ModelError(
            f"model.weights: {reference} has {len(there)} tensors, the network {len(here)}; "
            "these are not the weights of this architecture"
        )
    renamed = dict(zip(here, there, strict=True))
    body = {name: given[other] for name, other in renamed.items() if not lies_in(name, heads)}
    _check_shapes(body, wanted, reference, renamed)
    return body


def _check_shapes(
    placed: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    reference: str,
    renamed: Mapping[str, str] | None = None,
) -> None:
    for name, tensor in placed.items():
        if tensor.shape != wanted[name].shape:
            there = (renamed or {}).get(name, name)
            raise ModelError(
                f"model.weights: {reference} has {there} of shape {tuple(tensor.shape)}, where the "
                f"network has {name} of shape {tuple(wanted[name].shape)}"
            )


def _read(reference: str) -> dict[str, Tensor]:
    path = locate(reference, ModelError) or Path(reference)
    if not path.is_file():
        raise ModelError(f"model.weights: {reference} is no file")
    try:
        # Reads safetensors too, and takes the weights out of a training checkpoint.
        found = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise ModelError(f"model.weights: {reference} cannot be read: {error}") from error
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"model.weights: {reference} holds no tensors by name")
    return tensors


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")
