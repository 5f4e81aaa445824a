"""The final model: written in the layout of its own library, reloaded and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.checkpoint import write_json
from finetune.data.loading import tensors_in, to_device
from finetune.errors import ModelError
from finetune.methods import Method
from finetune.model import TransferModel
from finetune.task import Row, Task

# Of the largest output. Merging adapters reorders float32 sums, which costs about 1e-6; a wrong
# weight costs far more.
TOLERANCE = 1e-4


def export_model(
    model: TransferModel,
    task: Task,
    method: Method,
    rows: Sequence[Row],
    folder: Path,
    *,
    cards: Callable[[float, bool], Mapping[str, str]],
    base: str,
    task_name: str,
) -> float:
    """Write `folder` whole or not at all; the largest difference of the reloaded model's outputs.

    The difference is over `rows`, as a share of the largest output; `cards` makes of it, and of
    whether there is an adapter, the text of each card by its path. The live model is merged on the
    way, and empty afterwards: two of them may not fit where one was trained. Raises ModelError if
    the reloaded model differs by more than the tolerance; the folder is not written then.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    model.widen()
    device = next(model.parameters()).device
    before = compute_outputs(model, task, rows, device)
    model.settle()
    has_adapter = method.save_adapter(model, beside / "adapter")
    method.merge(model)
    task.save(model, beside)
    write_task(beside / "task.json", task, task_name, base)

    model.to("meta")
    reloaded = task.load_model(beside).to(device)
    difference = relative_difference(before, compute_outputs(reloaded, task, rows, device))
    if not difference <= TOLERANCE:
        shutil.rmtree(beside)
        raise ModelError(
            f"{folder}: the reloaded model differs from the trained one by {difference:.1e} "
            f"of its largest output (tolerance {TOLERANCE:.0e}); nothing was written. "
            "The checkpoints are unharmed; please report this"
        )
    for name, text in cards(difference, has_adapter).items():
        (beside / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)
    return difference


def write_task(path: Path, task: Task, name: str, base: str) -> None:
    """Write what `finetune.load` needs to know beside the network, and what that was made of.

    The files beside it are named, so that one which goes missing is found.
    """
    config = task.config.model_dump(mode="json")
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
    batch = to_device(task.collate([task.encode(row) for row in rows]), device)
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
    return list(rows.__getitems__(places))
