"""The exact solver: a linear head on cached features, at the optimum of its task's loss.

This amounts to logistic regression for labels and ridge regression for numbers. The objective is
the mean loss plus l2 / 2 times the squared weights (not the bias), minimized by L-BFGS in float64
along the principal axes of the features. Unless given, the strength l2 is the one with the lowest
held-out loss in 5-fold cross-validation on the training split. With classes or groups of rows, the
loss is the mean of their mean losses, so that each has the same weight.
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
from finetune.task_parts.samples import Stats

STRENGTHS = tuple(float(f"1e{power}") for power in range(0, -8, -1))
FOLDS = 5
# Stop trying weaker strengths after this many in a row with a loss above the lowest.
PATIENCE = 2


def solve_head(
    model: TransferModel,
    task: Task,
    split: Split,
    *,
    seed: int,
    strength: float | None = None,
    classes: np.ndarray | None = None,
) -> dict[str, float]:
    """Put the head at its optimum on `split`; return the strength and its losses.

    Pass `strength` where cross-validation cannot choose it, and `classes`, int64 [N] from 0, to
    give each of them the same weight. Raises ModelError if the head is not a single linear layer,
    since only then is the objective convex.
    """
    layer = _only_linear(model)
    order = np.random.default_rng(seed).permutation(len(split))
    home = layer.weight.device
    layer.to("cpu" if home.type == "mps" else home, torch.float64)  # an Apple GPU has no float64
    try:
        losses = dict[float, float]()
        if strength is None:
            losses = _cross_validate(model, task, split, order, layer, classes)
            strength = min(losses, key=lambda strength: losses[strength])
        _reset(layer)
        parts = _parts(task, split, np.sort(order), layer.weight.device, classes)
        final = _minimize(model, task, parts, layer, strength, _find_axes(parts, layer))
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
            rest = _parts(task, split, np.setdiff1d(order, fold), layer.weight.device)
            (held_out,) = _parts(task, split, fold, layer.weight.device)
            _reset(layer)
            _minimize(model, task, rest, layer, strength, _find_axes(rest, layer))
            with torch.no_grad():
                found.append(task.measure(model(held_out), held_out))
    finally:
        layer.to(home, torch.float32)
    places = torch.from_numpy(np.argsort(order))
    return {name: torch.cat([stats[name].cpu() for stats in found])[places] for name in found[0]}


def _cross_validate(
    model: TransferModel,
    task: Task,
    split: Split,
    order: np.ndarray,
    layer: nn.Linear,
    classes: np.ndarray | None = None,
) -> dict[float, float]:
    """Return {strength: mean held-out loss}, from strong to weak until weaker ones only overfit."""
    folds = []
    for fold in np.array_split(order, min(FOLDS, len(order))):
        rest = _parts(task, split, np.setdiff1d(order, fold), layer.weight.device, classes)
        held_out = _parts(task, split, fold, layer.weight.device, classes)
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


def _find_axes(parts: Sequence[Batch], layer: nn.Linear) -> _Axes:
    if [values.ndim for values in parts[0]["features"].values()] != [2]:
        raise ModelError(
            "method.solver=exact needs one vector per row before the head; use method.solver=loop"
        )
    (name,) = parts[0]["features"]
    values = torch.cat([part["features"][name] for part in parts])  # [N, H]
    mean = values.mean(0) if layer.bias is not None else torch.zeros_like(values[0])
    centered = values - mean
    variances, directions = torch.linalg.eigh(centered.T @ centered / len(values))
    return _Axes(name, mean, directions, variances.clamp(min=0))


def _minimize(
    model: TransferModel,
    task: Task,
    parts: Sequence[Batch],
    layer: nn.Linear,
    strength: float,
    axes: _Axes,
) -> float:
    """Run full-batch L-BFGS from the layer's current weights; return the final objective."""
    spread = (axes.variances + strength).sqrt()  # [H]
    whitened = [
        part | {"features": {axes.name: (values - axes.mean) @ axes.directions / spread}}
        for part in parts
        for values in part["features"].values()
    ]
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
        objective = _mean_loss(model, task, whitened) + strength / 2 * squares
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
        return float(_mean_loss(model, task, parts) + strength / 2 * layer.weight.square().sum())


def _mean_loss(model: TransferModel, task: Task, parts: Sequence[Batch]) -> Tensor:
    losses = [
        value / batch["count"][term]
        for batch in parts
        for term, value in task.loss(model(batch), batch).items()
    ]
    return torch.stack(losses).sum() / len(parts)


def _parts(
    task: Task,
    split: Split,
    indices: np.ndarray,
    device: torch.device,
    classes: np.ndarray | None = None,
) -> list[Batch]:
    """Return rows as one batch, or as one for each of the classes that occur among them."""
    if classes is None:
        return [_batch(task, split, indices, device)]
    of_each = [indices[classes[indices] == each] for each in np.unique(classes[indices])]
    return [_batch(task, split, some, device) for some in of_each]


def _batch(task: Task, split: Split, indices: np.ndarray, device: torch.device) -> Batch:
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
