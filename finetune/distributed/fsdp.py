"""Weights, gradients and optimizer state split among processes: FSDP2 (Zhao et al. 2023,
arXiv:2304.11277), by torch's `fully_shard`.

Each block of the network is fetched whole when a pass reaches it. What is saved, evaluated and
exported is whole again, so no file tells how many processes there were. Importing torch's part of
it takes seconds, which a run without it does not pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError, ModelError
from finetune.model import TransferModel


def check_sharding(config: RunConfig, precision: str, method_fault: str) -> None:
    """Refuse keys that have no meaning, or no test, beside train.shard. Raises ConfigError.

    `method_fault` is what the method has against it, "" for nothing.
    """
    optim = config.optim.name
    if method_fault:
        raise ConfigError(f"train.shard: {method_fault}; or leave train.shard out")
    faults = {
        f"optim.name={optim}": (
            optim not in ("adamw", "sgd"),
            "is not known to update parts of a weight as it would the whole; use adamw or sgd",
        ),
        "train.precision=fp16": (precision == "fp16", "has a loss scaler; use bf16 or fp32"),
        f"model.quantize={config.model.quantize}": (
            config.model.quantize is not None,
            "holds weights that cannot be split",
        ),
        "task.generate=true": (
            getattr(config.task, "generate", False),
            "passes by the module whose weights are split; write and score texts afterwards, with "
            "finetune evaluate RUN DATA task.generate=true",
        ),
    }
    for key, (is_asked, why) in faults.items():
        if is_asked:
            raise ConfigError(f"train.shard: {key} {why}; or leave train.shard out")


def shard(model: TransferModel, device: torch.device, processes: int) -> str:
    """Leave this process its share of every parameter, in place; what a person should know of it.

    An optimizer must be built afterwards: the parameters are new ones. Raises ModelError for a
    network that cannot be split.
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
            f"train.shard: {type(model.network).__name__} cannot be split among processes "
            f"({error}); leave train.shard out"
        ) from error
    return f"sharding: split among {processes} processes, {len(units)} blocks one by one"


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a share of the weights."""
    return hasattr(model, "unshard")


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights, to read: passes need no other process."""
    units: list[Any] = [module for module in model.modules() if is_sharded(module)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # The outermost one keeps its weights between a forward pass and its backward pass.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split; every process must ask for it."""
    return tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """All of each tensor, split ones on the CPU; nothing for a process that does not `keep` them.

    Every process must call it.
    """
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())  # one at a time: a GPU need not hold all of them
        if keep:
            found[name] = value.cpu() if is_split(tensor) else value
    return found


def share_of(value: Tensor, like: Any) -> Tensor:
    """What this process holds of `value` if it is split as `like` is; each process has `value`."""
    if not is_split(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def is_split(tensor: Any) -> bool:
    """Whether it is a DTensor."""
    return hasattr(tensor, "full_tensor")


def _units(model: TransferModel) -> list[nn.Module]:
    """The modules that are fetched one by one, from input to output; the model itself, with the
    first block and the head, is fetched for the whole of a pass.

    Embeddings may be read by other modules, and a weight that two modules share must be fetched
    for both of them.
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
