"""The exact solver: a linear head on cached features, at the optimum of its task's loss.

This amounts to logistic regression for labels and ridge regression for numbers. The objective is
the mean loss plus l2 / 2 times the squared weights (not the bias), minimized by L-BFGS in float64
along the principal axes of the features. Unless given, the strength l2 is the one with the lowest
held-out loss in 5-fold cross-validation on the training split.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from finetune.batching.data_loader import Split
from finetune.distributed.devices import map_tensors, to_device
from finetune.errors import ModelError
from finetune.model import Batch, TransferModel
from finetune.task import Task
from finetune.task_parts import Stats

STRENGTHS = tuple(float(f"1e{power}") for power in range(0, -8, -1))
FOLDS = 5
# Stop trying weaker strengths after this many in a row with a loss above the lowest.
PATIENCE = 2


def solve_head(
    model: TransferModel, task: Task, split: Split, *, seed: int, strength: float | None = None
) -> dict[str, float]:
    """Put the head at its optimum on `split`; return the strength and its losses.

    Pass `strength` where cross-validation cannot choose it. Raises ModelError if the head is not a
    single linear layer, since only then is the objective convex.
    """
    layer = _only_linear(model)
    order = np.random.default_rng(seed).permutation(len(split))
    home = layer.weight.device
    layer.to("cpu" if home.type == "mps" else home, torch.float64)  # an Apple GPU has no float64
    try:
        losses = dict[float, float]()
        if strength is None:
            losses = _cross_validate(model, task, split, order, layer)
            strength = min(losses, key=lambda strength: losses[strength])
        _reset(layer)
        batch = _batch(task, split, np.sort(order), layer.weight.device)
        final = _minimize(model, task, batch, layer, strength, _find_axes(batch, layer))
    finally:
        layer.to(home, torch.float32)
    chosen_by = {"cross_validation_loss": losses[strength]} if losses else {}
    return {"l2": strength, **chosen_by, "loss": final}


def out_of_fold(model: TransferModel, task: Task, split: Split, *, seed: int) -> Stats:
    """Return the statistics of each row [N, ...] under a head that was solved on other rows.

    The strength is the same for all folds, chosen as in `solve_head`. Leaves the head of the last
    fold. Raises ModelError like `solve_head`.
    """
    layer = _only_linear(model)
    order = np.random.default_rng(seed).permutation(len(split))
    home, found = layer.weight.device, list[Stats]()
    layer.to("cpu" if home.type == "mps" else home, torch.float64)
    try:
        losses = _cross_validate(model, task, split, order, layer)
        strength = min(losses, key=lambda strength: losses[strength])
        for fold in np.array_split(order, min(FOLDS, len(order))):
            rest = _batch(task, split, np.setdiff1d(order, fold), layer.weight.device)
            held_out = _batch(task, split, fold, layer.weight.device)
            _reset(layer)
            _minimize(model, task, rest, layer, strength, _find_axes(rest, layer))
            with torch.no_grad():
                found.append(task.measure(model(held_out), held_out))
    finally:
        layer.to(home, torch.float32)
    places = torch.from_numpy(np.argsort(order))
    return {name: torch.cat([stats[name].cpu() for stats in found])[places] for name in found[0]}


def _cross_validate(
    model: TransferModel, task: Task, split: Split, order: np.ndarray, layer: nn.Linear
) -> dict[float, float]:
    """Return {strength: mean held-out loss}, from strong to weak until weaker ones only overfit."""
    folds = []
    for fold in np.array_split(order, min(FOLDS, len(order))):
        rest = _batch(task, split, np.setdiff1d(order, fold), layer.weight.device)
        held_out = _batch(task, split, fold, layer.weight.device)
        folds.append((rest, held_out, _find_axes(rest, layer)))
    _reset(layer)
    solutions = [copy.deepcopy(layer.state_dict()) for _ in folds]
    losses: dict[float, float] = {}
    for strength in STRENGTHS:
        losses[strength] = 0.0
        for place, (rest, held_out, axes) in enumerate(folds):
            layer.load_state_dict(solutions[place])  # warm start from the next stronger one
            _minimize(model, task, rest, layer, strength, axes)
            solutions[place] = copy.deepcopy(layer.state_dict())
            with torch.no_grad():
                losses[strength] += float(_mean_loss(model, task, held_out)) / len(folds)
        if min(list(losses.values())[-PATIENCE:]) > min(losses.values()):
            break
    return losses


class _Axes(NamedTuple):
    """Principal axes of a batch's features, to precondition L-BFGS.

    Along these axes, each scaled by its own spread, L-BFGS converges in tens of steps. On raw
    features, whose scales differ a thousandfold, thousands of steps do not reach the optimum.
    """

    name: str
    mean: Tensor  # [H]; 0 for a layer without bias, which could not absorb the shift
    directions: Tensor  # [H, H], one per column
    variances: Tensor  # [H]


def _find_axes(batch: Batch, layer: nn.Linear) -> _Axes:
    if [values.ndim for values in batch["features"].values()] != [2]:
        raise ModelError(
            "method.solver=exact needs one vector per row before the head; use method.solver=loop"
        )
    ((name, values),) = batch["features"].items()  # [N, H]
    mean = values.mean(0) if layer.bias is not None else torch.zeros_like(values[0])
    centered = values - mean
    variances, directions = torch.linalg.eigh(centered.T @ centered / len(values))
    return _Axes(name, mean, directions, variances.clamp(min=0))


def _minimize(
    model: TransferModel, task: Task, batch: Batch, layer: nn.Linear, strength: float, axes: _Axes
) -> float:
    """Run full-batch L-BFGS from the layer's current weights; return the final objective."""
    spread = (axes.variances + strength).sqrt()  # [H]
    whitened = (batch["features"][axes.name] - axes.mean) @ axes.directions / spread
    whitened_batch = batch | {"features": {axes.name: whitened}}
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=1000,
        max_eval=5000,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        squares = (layer.weight / spread).square().sum()  # invariant under the rotation
        objective = _mean_loss(model, task, whitened_batch) + strength / 2 * squares
        objective.backward()  # type: ignore[no-untyped-call]
        return objective

    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.add_(layer.weight @ axes.mean)
        layer.weight.copy_(layer.weight @ axes.directions * spread)
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(layer.weight / spread @ axes.directions.T)
        if layer.bias is not None:
            layer.bias.sub_(layer.weight @ axes.mean)
        return float(_mean_loss(model, task, batch) + strength / 2 * layer.weight.square().sum())


def _mean_loss(model: TransferModel, task: Task, batch: Batch) -> Tensor:
    terms = task.loss(model(batch), batch)
    return torch.stack([value / batch["count"][term] for term, value in terms.items()]).sum()


def _batch(
    task: Task, split: Split, indices: Sequence[int] | np.ndarray, device: torch.device
) -> Batch:
    assert split.features is not None, "the exact solver runs on cached features"
    places = [int(index) for index in indices]
    batch = to_device(task.collate(split.features.samples(places)), device)
    features = to_device(split.features.take(places), device)
    batch["features"] = {name: value.double() for name, value in features.items()}
    # Floating-point targets (regression, multi-label) must match the float64 outputs.
    batch["targets"] = map_tensors(
        batch["targets"], lambda t: t.double() if t.is_floating_point() else t
    )
    return batch  # type: ignore[no-any-return]


def _only_linear(model: TransferModel) -> nn.Linear:
    modules = [model.network.get_submodule(name) for name in model.heads]
    if len(modules) == 1 and isinstance(modules[0], nn.Linear):
        return modules[0]
    raise ModelError(
        f"method.solver=exact needs a head of one linear layer, but this head "
        f"({', '.join(model.heads)}) is not; use method.solver=loop"
    )


def _reset(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
