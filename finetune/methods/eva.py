"""EVA (Paischer et al. 2024, arXiv:2410.07170): adapters begin along what their layer is given.

The directions are the principal components of a layer's inputs over some training batches, and a
layer whose inputs they explain better is given more of them, so a higher rank.

Shapes: N input vectors of C values, of which K directions are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.distributed.devices import to_device
from finetune.model import Batch, TransferModel

# A layer may be given so many times the rank that was asked for it.
MOST = 2


class _Found(NamedTuple):
    directions: Tensor  # [K, C], orthonormal rows
    shares: Tensor  # [K], of the variance, the largest first


def starting_directions(
    model: TransferModel, ranks: Mapping[str, int], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """{layer: directions [K, C]} that adapters begin along; together as many as `ranks` asks for.

    A layer whose inputs others explain better may be left out.
    """
    fits = _fit_inputs(model, MOST * max(ranks.values()), ranks, batches)
    found = {}
    for name, rank in ranks.items():
        if name in fits:
            directions, shares = fits[name]
            found[name] = _Found(directions[: MOST * rank], shares[: MOST * rank])
    dealt = _deal(found, sum(ranks.values()))
    return {name: found[name].directions[:count] for name, count in dealt.items()}


def _deal(found: Mapping[str, _Found], budget: int) -> dict[str, int]:
    """How many directions each layer keeps, of all those that explain most."""
    owners = [name for name, own in found.items() for _ in own.shares]
    shares = torch.cat([own.shares for own in found.values()])
    best = shares.argsort(descending=True, stable=True)[:budget]
    counts = Counter(owners[place] for place in best.tolist())
    return {name: counts[name] for name in found if counts[name]}


@torch.no_grad()
def _fit_inputs(
    model: TransferModel, count: int, layers: Iterable[str], batches: Iterable[Batch]
) -> dict[str, _Found]:
    """The `count` largest principal components of the inputs of each layer that is given any."""
    fits: dict[str, _Components] = {}
    # By the tensor that this pass gave to several layers, as to query, key and value.
    given: dict[int, tuple[Tensor, str]] = {}
    readers: dict[str, str] = {}
    batch: Batch = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            first = given.setdefault(id(arguments[0]), (arguments[0], name))[1]
            readers[name] = first
            if first == name:
                vectors = _vectors(arguments[0], batch["inputs"])
                fits.setdefault(name, _Components(count)).add(vectors)

        return hook

    hooks = [
        model.network.get_submodule(name).register_forward_pre_hook(note(name)) for name in layers
    ]
    model.eval()
    try:
        for each in batches:
            given.clear()
            batch = to_device(each, next(model.parameters()).device)
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    ends = {name: fit.end() for name, fit in fits.items()}
    return {name: ends[first] for name, first in readers.items()}


def _vectors(values: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """[N, C] of what a layer is given, without positions that are padding."""
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == values.shape[:-1]:
        values = values[mask.bool()]
    vectors = values.reshape(-1, values.shape[-1]).float()
    return vectors.cpu() if vectors.device.type == "mps" else vectors  # it has no float64


class _Components:
    """Principal components of vectors that come in portions."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[Tensor] = []
        self._pca: Any = None

    def add(self, vectors: Tensor) -> None:
        self._waiting.append(vectors)
        # Few at a time would not span as many directions.
        if sum(map(len, self._waiting)) >= 4 * self._count:
            self._take()

    def end(self) -> _Found:
        if self._pca is None:
            self._take()
        return _Found(self._pca.components_.float(), self._pca.explained_variance_ratio_)

    def _take(self) -> None:
        from peft.utils.incremental_pca import IncrementalPCA

        vectors = torch.cat(self._waiting)
        self._waiting = []
        if self._pca is None:
            count = max(1, min(self._count, len(vectors) - 1, vectors.shape[1]))
            is_small = 2 * count > min(vectors.shape)
            self._pca = IncrementalPCA(count, lowrank=not is_small, lowrank_seed=0)
        self._pca.partial_fit(vectors)
