"""The exact solver: a linear head on cached features at the optimum of its task's loss.

Logistic regression for labels and ridge regression for numbers are what this makes of their losses:
the mean loss plus l2 / 2 times the squared weights (not the bias), minimised by L-BFGS in float64
along the principal axes of the features. The strength l2 is the one with the lowest held-out loss
in 5-fold cross-validation on the training split, unless it is given.
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

STRENGTHS = tuple(float(f"1e{power}") for power in range(0, -8, -1))
FOLDS = 5
# After so many strengths in a row with a loss above the lowest, weaker ones are not tried.
WORSE = 2


def solve_head(
    model: TransferModel, task: Task, split: Split, *, seed: int, strength: float | None = None
) -> dict[str, float]:
    """Put the head at its optimum on `split`; the strength, the loss, and the one that chose it.

    `strength` is given where cross-validation cannot choose it. Raises ModelError if the head is
    not one linear layer, for which alone the optimum is the optimum.
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
        final = _minimise(model, task, batch, layer, strength, _find_axes(batch, layer))
    finally:
        layer.to(home, torch.float32)
    chosen_by = {"cross_validation_loss": losses[strength]} if losses else {}
    return {"l2": strength, **chosen_by, "loss": final}


def _cross_validate(
    model: TransferModel, task: Task, split: Split, order: np.ndarray, layer: nn.Linear
) -> dict[float, float]:
    """{strength: mean held-out loss}, from strong to weak until weaker ones only overfit."""
    folds = []
    for held in np.array_split(order, min(FOLDS, len(order))):
        rest = _batch(task, split, np.setdiff1d(order, held), layer.weight.device)
        held_out = _batch(task, split, held, layer.weight.device)
        folds.append((rest, held_out, _find_axes(rest, layer)))
    _reset(layer)
    solutions = [copy.deepcopy(layer.state_dict()) for _ in folds]
    losses: dict[float, float] = {}
    for strength in STRENGTHS:
        losses[strength] = 0.0
        for place, (rest, held_out, axes) in enumerate(folds):
            layer.load_state_dict(solutions[place])  # of the stronger one before: it is near
            _minimise(model, task, rest, layer, strength, axes)
            solutions[place] = copy.deepcopy(layer.state_dict())
            with torch.no_grad():
                losses[strength] += float(_mean_loss(model, task, held_out)) / len(folds)
        if min(list(losses.values())[-WORSE:]) > min(losses.values()):
            break
    return losses


class _Axes(NamedTuple):
    """The principal axes of a batch's features.

    Along them, each in units of its own spread, L-BFGS needs tens of steps; on features as they
    come, which vary a thousandfold, thousands do not end at the optimum.
    """

    name: str
    mean: Tensor  # [H]; 0 for a layer without bias, which could not make up for it
    directions: Tensor  # [H, H], a column each
    variances: Tensor  # [H]


def _find_axes(batch: Batch, layer: nn.Linear) -> _Axes:
    if [values.ndim for values in batch["features"].values()] != [2]:
        raise ModelError("method.solver=exact needs one vector a row for the head; use solver=loop")
    ((name, values),) = batch["features"].items()  # [N, H]
    mean = values.mean(0) if layer.bias is not None else torch.zeros_like(values[0])
    centred = values - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(values))
    return _Axes(name, mean, directions, variances.clamp(min=0))


def _minimise(
    model: TransferModel, task: Task, batch: Batch, layer: nn.Linear, strength: float, axes: _Axes
) -> float:
    """L-BFGS on all rows at once, from where the layer stands; the objective that it ends at."""
    spread = (axes.variances + strength).sqrt()  # [H]
    turned = (batch["features"][axes.name] - axes.mean) @ axes.directions / spread
    inside = batch | {"features": {axes.name: turned}}
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
        squares = (layer.weight / spread).square().sum()  # a rotation does not change them
        objective = _mean_loss(model, task, inside) + strength / 2 * squares
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
    # Numbers and several labels are targets that meet float64 outputs.
    batch["targets"] = map_tensors(
        batch["targets"], lambda t: t.double() if t.is_floating_point() else t
    )
    return batch  # type: ignore[no-any-return]


def _only_linear(model: TransferModel) -> nn.Linear:
    modules = [model.network.get_submodule(name) for name in model.heads]
    if len(modules) == 1 and isinstance(modules[0], nn.Linear):
        return modules[0]
    raise ModelError(
        f"method.solver=exact solves one linear layer, and the head ({', '.join(model.heads)}) "
        "has another shape; use method.solver=loop"
    )


def _reset(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
