"""Weights, gradients and optimizer state sharded among processes: FSDP2 (Zhao et al. 2023,
arXiv:2304.11277), with torch's `fully_shard`.

Each block is gathered when a pass reaches it. Checkpoints, evaluations and exports use the full
weights, so files do not depend on the number of processes. torch's modules for it take seconds to
import, so they are imported only when used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model import TransferModel


def shard(model: TransferModel, device: torch.device, processes: int) -> str:
    """Shard every parameter in place; return a note for the user.

    Build the optimizer afterwards, since the parameters are replaced. Raises ModelError for a
    network that cannot be sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    units = _units(model)
    try:
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(
            f"train.shard: {type(model.network).__name__} cannot be sharded ({error}); leave "
            "train.shard out"
        ) from error
    return f"sharding: {processes} processes, {len(units)} blocks gathered one at a time"


def is_sharded(model: nn.Module) -> bool:
    """True if this process holds only a shard of the weights."""
    return hasattr(model, "unshard")


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gather all weights on every process, read-only, so that passes need no communication."""
    units: list[Any] = [module for module in model.modules() if is_sharded(module)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # The root module keeps its weights between forward and backward passes.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor if it is a DTensor. A collective: every process must call it."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return every tensor in full, DTensors on the CPU; {} on processes that do not `keep` them.

    A collective: every process must call it.
    """
    gathered = {}
    for name, tensor in tensors.items():
        value = full_tensor(tensor.detach())  # one at a time, so that a GPU never holds all of them
        if keep:
            gathered[name] = value.cpu() if is_dtensor(tensor) else value
    return gathered


def local_shard(value: Tensor, like: Any) -> Tensor:
    """Shard `value`, which every process holds in full, like the DTensor `like`."""
    if not is_dtensor(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def is_dtensor(tensor: Any) -> bool:
    """True for a tensor that is sharded among processes."""
    return hasattr(tensor, "full_tensor")


def _units(model: TransferModel) -> list[nn.Module]:
    """Return the modules to gather one by one, from input to output.

    The rest of the model, with the first block and the head, stays gathered during a whole pass:
    other modules may read the embeddings, and a weight shared by two modules is needed by both.
    """
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    modules = dict(model.network.named_modules())
    return [
        modules[name]
        for block in model.blocks[1:]
        for name in block
        if name in modules
        and any(True for _ in modules[name].parameters())
        and all(owners[id(parameter)] == 1 for parameter in modules[name].parameters())
        and not isinstance(modules[name], nn.ModuleList | nn.ModuleDict)
    ]
