"""The final model: written in the layout of its own library, reloaded and compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.batching.data_loader import encode_batch
from finetune.distributed.devices import tensors_in, to_device
from finetune.errors import ModelError
from finetune.io.files import atomic, write_json
from finetune.methods.base import Method
from finetune.model import TransferModel, saved_model
from finetune.task import Task
from finetune.task_parts import Row, take_rows

# Of the largest output. Merging adapters reorders float32 sums, which costs about 1e-6; a wrong
# weight costs far more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Final:
    """What is written of a run, and where.

    Attributes:
        folder: the place of the final model.
        task_name: how the config names the task.
        base: the reference of the pretrained network.
        dtype: of the weights, where they are rounded.
        cards: the difference of the reloaded model, and whether there is an adapter -> the text of
            each card by its path.
        trust_remote_code: whether code that came with the pretrained network may run.
    """

    folder: Path
    task_name: str
    base: str
    dtype: torch.dtype
    cards: Callable[[float, bool], Mapping[str, str]]
    trust_remote_code: bool = False


class Differences(NamedTuple):
    """Of outputs, as shares of the largest: after reloading, and after rounding."""

    reloaded: float
    rounded: float = 0.0


def export_model(
    model: TransferModel, task: Task, method: Method, rows: Sequence[Row], final: Final
) -> Differences:
    """Write the final model whole or not at all; how far the outputs on `rows` moved.

    The live model is merged and rounded on the way, and empty afterwards: two of them may not fit
    where one was trained. Raises ModelError if merging or reloading changes outputs by more than
    the tolerance; nothing is written then.
    """
    model.widen()
    device = next(model.parameters()).device
    before = compute_outputs(model, task, rows, device)
    model.settle()
    final.folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(final.folder) as beside:
        beside.mkdir()
        has_adapter = method.save_adapter(model, beside / "adapter")
        method.merge(model)
        rounded = 0.0
        if final.dtype != torch.float32:
            merged = compute_outputs(model, task, rows, device)
            _check(relative_difference(before, merged), final.folder)
            _round(model, final.dtype)
            before = compute_outputs(model, task, rows, device)
            rounded = relative_difference(merged, before)
            _cast(model, final.dtype)
        task.save(model, beside)
        write_task(beside / "task.json", task, final.task_name, final.base)

        _empty(model)
        source = saved_model(beside, trust_remote_code=final.trust_remote_code)
        reloaded = task.load_model(source).to(device)
        difference = relative_difference(before, compute_outputs(reloaded, task, rows, device))
        _check(difference, final.folder)
        for name, text in final.cards(difference, has_adapter).items():
            (beside / name).write_text(text, encoding="utf-8")
        _let_others_read(beside)
    return Differences(difference, rounded)


def _let_others_read(folder: Path) -> None:
    """Give files of weights the permissions of the other files.

    safetensors lets only the owner read what it writes, but others may serve the model.
    """
    mode = (folder / "task.json").stat().st_mode
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # mounted drives may know no such rights
            path.chmod(mode)


def _empty(model: TransferModel) -> None:
    """Give back the memory of all parameters, which an optimizer may still hold, and of buffers."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
    model.to("meta")


def _round(model: TransferModel, dtype: torch.dtype) -> None:
    """Give all parameters values that a type of 16 bits has. Raises ModelError if it has none for
    some of them.
    """
    _cast(model, dtype)
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ModelError(
            f"output.dtype={str(dtype).removeprefix('torch.')}: some weights are too large for it, "
            "and nothing was written; go on with output.dtype=bfloat16"
        )
    _cast(model, torch.float32)


def _cast(model: TransferModel, dtype: torch.dtype) -> None:
    """Give all parameters a type; buffers, the frequencies of positions say, keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _check(difference: float, folder: Path) -> None:
    """Raise ModelError if outputs differ by more than the tolerance."""
    if difference <= TOLERANCE:
        return
    raise ModelError(
        f"{folder}: the reloaded model differs from the trained one by {difference:.1e} "
        f"of its largest output (tolerance {TOLERANCE:.0e}); nothing was written. "
        "The checkpoints are unharmed; please report this"
    )


def write_task(path: Path, task: Task, name: str, base: str) -> None:
    """Write what `finetune.load` needs to know beside the network, and what that was made of.

    The files beside it are named, so that one which goes missing is found.
    """
    config = task.resolved_.model_dump(mode="json")
    files = sorted(beside.name for beside in path.parent.iterdir() if beside.is_file())
    held = {"name": name, "config": config, "state": task.state(), "base": base, "files": files}
    write_json(path, held)


def compute_outputs(
    model: TransferModel, task: Task, rows: Sequence[Row], device: torch.device
) -> list[Tensor]:
    """Every tensor of the model's outputs on `rows`, in float32 and evaluation mode.

    They are computed from the inputs themselves, not from cached features.
    """
    model.eval()
    batch = to_device(encode_batch(task, rows), device)
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        return [tensor.float() for tensor in tensors_in(model(batch))]


def relative_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference as a share of the largest value.

    It is infinite where shapes differ or a value is not finite.
    """
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    largest = max((float(tensor.abs().max()) for tensor in before if tensor.numel()), default=0.0)
    pairs = zip(before, after, strict=True)
    difference = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    return difference / max(largest, 1e-12) if difference == difference else float("inf")


def sample_rows(rows: Any, count: int = 8) -> list[Row]:
    """A few rows, spread over a split."""
    size = len(rows)
    places = sorted({size * place // count for place in range(min(count, size))})
    return take_rows(rows, places)
