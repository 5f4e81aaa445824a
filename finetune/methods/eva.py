"""EVA (Paischer et al. 2024, arXiv:2410.07170): data-driven initialization of LoRA adapters.

A of each layer is initialized with principal components of the layer's inputs over some training
batches. Ranks are redistributed: layers whose components explain more variance get more of them.

Shapes: N input vectors with C channels, K principal directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.distributed.devices import to_device
from finetune.model import Batch, TransferModel

# A layer gets at most this many times its configured rank.
MAX_RANK_RATIO = 2


class _Directions(NamedTuple):
    vectors: Tensor  # [K, C], orthonormal rows
    shares: Tensor  # [K], explained variance ratios in descending order


def starting_directions(
    model: TransferModel, ranks: Mapping[str, int], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """Return {layer: initial rows of A [K, C]}, as many in total as `ranks` sums to.

    A layer whose directions all explain little is left out.
    """
    fits = _fit_inputs(model, MAX_RANK_RATIO * max(ranks.values()), ranks, batches)
    candidates = {}
    for name, rank in ranks.items():
        if name in fits:
            vectors, shares = fits[name]
            most = MAX_RANK_RATIO * rank
            candidates[name] = _Directions(vectors[:most], shares[:most])
    counts = _allocate(candidates, sum(ranks.values()))
    return {name: candidates[name].vectors[:count] for name, count in counts.items()}


def _allocate(candidates: Mapping[str, _Directions], budget: int) -> dict[str, int]:
    """Count each layer's share of the `budget` directions that explain the most variance."""
    owners = [name for name, directions in candidates.items() for _ in directions.shares]
    shares = torch.cat([directions.shares for directions in candidates.values()])
    best = shares.argsort(descending=True, stable=True)[:budget]
    counts = Counter(owners[place] for place in best.tolist())
    return {name: counts[name] for name in candidates if counts[name]}


@torch.no_grad()
def _fit_inputs(
    model: TransferModel, count: int, layers: Iterable[str], batches: Iterable[Batch]
) -> dict[str, _Directions]:
    """Return the `count` largest principal components of the inputs of each layer that is run."""
    fits: dict[str, _IncrementalPca] = {}
    # {id of an input tensor: (tensor, first layer that read it)}. Query, key and value often share
    # their input, which is fitted once. Holding the tensor keeps its id from being reused.
    inputs: dict[int, tuple[Tensor, str]] = {}
    first_readers: dict[str, str] = {}
    batch: Batch = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            first = inputs.setdefault(id(arguments[0]), (arguments[0], name))[1]
            first_readers[name] = first
            if first == name:
                vectors = _vectors(arguments[0], batch["inputs"])
                fits.setdefault(name, _IncrementalPca(count)).add(vectors)

        return hook

    hooks = [
        model.network.get_submodule(name).register_forward_pre_hook(make_hook(name))
        for name in layers
    ]
    model.eval()
    try:
        for each in batches:
            inputs.clear()
            batch = to_device(each, next(model.parameters()).device)
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    results = {name: fit.finish() for name, fit in fits.items()}
    return {name: results[first] for name, first in first_readers.items()}


def _vectors(values: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Flatten a layer's input to vectors [N, C], without padding positions."""
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == values.shape[:-1]:
        values = values[mask.bool()]
    vectors = values.reshape(-1, values.shape[-1]).float()
    return vectors.cpu() if vectors.device.type == "mps" else vectors  # MPS lacks float64


class _IncrementalPca:
    """Principal components of vectors that arrive in chunks."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[Tensor] = []
        self._pca: Any = None

    def add(self, vectors: Tensor) -> None:
        self._waiting.append(vectors)
        # A small chunk would not span that many directions.
        if sum(map(len, self._waiting)) >= 4 * self._count:
            self._fit()

    def finish(self) -> _Directions:
        if self._pca is None:
            self._fit()
        return _Directions(self._pca.components_.float(), self._pca.explained_variance_ratio_)

    def _fit(self) -> None:
        from peft.utils.incremental_pca import IncrementalPCA

        vectors = torch.cat(self._waiting)
        self._waiting = []
        if self._pca is None:
            count = max(1, min(self._count, len(vectors) - 1, vectors.shape[1]))
            is_small = 2 * count > min(vectors.shape)
            self._pca = IncrementalPCA(count, lowrank=not is_small, lowrank_seed=0)
        self._pca.partial_fit(vectors)
