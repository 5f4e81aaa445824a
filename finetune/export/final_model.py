"""Final model: write it in its own library's layout, reload it and compare the outputs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.batching.data_loader import encode_batch
from finetune.distributed.devices import tensors_in, to_device
from finetune.distributed.fp32_products import fast_products
from finetune.errors import ModelError
from finetune.io.files import atomic, write_json
from finetune.io.manifest import PROCESSOR_FILES, write_manifest
from finetune.methods.base import Method
from finetune.model import TransferModel, saved_model
from finetune.task import Task
from finetune.task_parts.samples import Row, RowTable, take_rows

# Relative to the largest output. Merging adapters reorders float32 sums, a difference of about
# 1e-6; a wrong weight makes a far larger one.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Final:
    """Settings of the export of a final model.

    Attributes:
        folder: the folder to write to.
        task_name: name of the task in the config.
        base: public name of the pretrained network.
        dtype: of the saved weights; other than float32, they are rounded.
        cards: function (difference of the reloaded model, has an adapter) -> {path: card text}.
        trust_remote_code: True if code that comes with the pretrained network may run.
    """

    folder: Path
    task_name: str
    base: str
    dtype: torch.dtype
    cards: Callable[[float, bool], Mapping[str, str]]
    trust_remote_code: bool = False


class Differences(NamedTuple):
    """Max differences of outputs, relative to the largest: after reloading and after rounding."""

    reloaded: float
    rounded: float = 0.0


def export_model(
    model: TransferModel, task: Task, method: Method, rows: Sequence[Row], final: Final
) -> Differences:
    """Write the final model atomically; return how much its outputs on `rows` changed.

    The live model is merged, rounded and finally emptied, since the device may not have memory for
    two copies. Raises ModelError, and writes nothing, if the outputs are not finite, or if merging
    or reloading changes them by more than the tolerance.
    """
    model.dequantize()
    device = next(model.parameters()).device
    before = compute_outputs(model, task, rows, device)
    if not all(bool(tensor.isfinite().all()) for tensor in before):
        raise ModelError(
            f"{final.folder}: the outputs of the trained network are not finite, and nothing was "
            "written; lower optim.lr and optim.head_lr, and start over with --fresh"
        )
    model.consolidate()
    final.folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(final.folder) as temporary:
        temporary.mkdir()
        has_adapter = method.save_adapter(model, temporary / "adapter")
        method.merge(model)
        rounded = 0.0
        if final.dtype != torch.float32:
            merged = compute_outputs(model, task, rows, device)
            _check(relative_difference(before, merged), final.folder)
            _round(model, final.dtype)
            before = compute_outputs(model, task, rows, device)
            rounded = relative_difference(merged, before)
            _cast(model, final.dtype)
        task.save(model, temporary)
        if has_adapter:
            _copy_processor(temporary, temporary / "adapter")
        write_task(temporary / "task.json", task, final.task_name, final.base)

        _empty(model)
        source = saved_model(temporary, trust_remote_code=final.trust_remote_code)
        reloaded = task.load_model(source).to(device)
        difference = relative_difference(before, compute_outputs(reloaded, task, rows, device))
        _check(difference, final.folder)
        for name, text in final.cards(difference, has_adapter).items():
            (temporary / name).write_text(text, encoding="utf-8")
        write_manifest(temporary)
        _copy_permissions(temporary)
    return Differences(difference, rounded)


def _copy_processor(folder: Path, adapter: Path) -> None:
    """Copy the tokenizer or image processor, so that the adapter's folder is complete with them."""
    for path in folder.iterdir():
        if any(path.match(pattern) for pattern in PROCESSOR_FILES):
            shutil.copy(path, adapter / path.name)


def _copy_permissions(folder: Path) -> None:
    """Give the weight files the permissions of the other files.

    safetensors writes files that only their owner can read, but another user may serve the model.
    """
    mode = (folder / "task.json").stat().st_mode
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # mounted drives may not support it
            path.chmod(mode)


def _empty(model: TransferModel) -> None:
    """Free the memory of all parameters, even if an optimizer still refers to them, and buffers."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
    model.to("meta")


def _round(model: TransferModel, dtype: torch.dtype) -> None:
    """Round all parameters to values of a 16-bit dtype. Raises ModelError if some overflow."""
    _cast(model, dtype)
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ModelError(
            f"output.dtype={str(dtype).removeprefix('torch.')}: some weights overflow in this "
            "dtype, and nothing was written; rerun with output.dtype=bfloat16"
        )
    _cast(model, torch.float32)


def _cast(model: TransferModel, dtype: torch.dtype) -> None:
    """Cast all parameters; buffers, such as position frequencies, keep their dtype."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _check(difference: float, folder: Path) -> None:
    """Raise ModelError if outputs differ by more than the tolerance."""
    if difference <= TOLERANCE:
        return
    raise ModelError(
        f"{folder}: reload check failed: the outputs of the merged or reloaded model differ from "
        f"those of the trained one (max relative difference {difference:.1e}, tolerance "
        f"{TOLERANCE:.0e}). Nothing was written, and the checkpoints are intact; please report this"
    )


def write_task(path: Path, task: Task, name: str, base: str) -> None:
    """Write task.json: what `finetune.load` needs in addition to the network.

    It lists the other files of the folder, so that a missing file is noticed.
    """
    config = task.resolved_.model_dump(mode="json")
    files = sorted(file.name for file in path.parent.iterdir() if file.is_file())
    facts = {"name": name, "config": config, "state": task.state(), "base": base, "files": files}
    write_json(path, facts)


def compute_outputs(
    model: TransferModel, task: Task, rows: Sequence[Row], device: torch.device
) -> list[Tensor]:
    """Return all tensors of the model's outputs on `rows`, computed in float32 and eval mode.

    They are computed from the inputs, never from cached features.
    """
    model.eval()
    batch = to_device(encode_batch(task, rows), device)
    exact = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(), exact, fast_products(device):
        return [tensor.float() for tensor in tensors_in(model(batch))]


def relative_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest absolute difference, relative to the largest absolute value.

    It is infinite if shapes differ or a value is not finite.
    """
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    largest = max((float(tensor.abs().max()) for tensor in before if tensor.numel()), default=0.0)
    pairs = zip(before, after, strict=True)
    difference = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    return difference / max(largest, 1e-12) if difference == difference else float("inf")


def sample_rows(rows: RowTable, count: int = 8) -> list[Row]:
    """Return up to `count` rows, spread evenly over a split."""
    size = len(rows)
    positions = sorted({size * number // count for number in range(min(count, size))})
    return take_rows(rows, positions)
