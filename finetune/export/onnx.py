"""ONNX export of a fine-tuned network, verified with onnxruntime against PyTorch on real rows."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from finetune.batching.data_loader import encode_batch
from finetune.config.schema import DataConfig
from finetune.data.mapping import map_rows
from finetune.data.opening import open_rows
from finetune.data.roles import Role, assign_roles
from finetune.data.source import Source
from finetune.errors import ConfigError, DataError, ModelError, format_count
from finetune.export.final_model import relative_difference
from finetune.inference.model_loading import load_final_network, load_task, model_folder
from finetune.inference.predictor import check_columns, input_columns
from finetune.inference.stored_code import check_stored_code
from finetune.io.manifest import MANIFEST
from finetune.io.run_folder import RunFolder
from finetune.io.table_writer import prepare_folder
from finetune.model import TransferModel
from finetune.reporting.console import Console
from finetune.tables.faults import drop_unreadable
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows

INSTALL = "pip install 'finetune-kit[onnx]'"
MODEL = "model.onnx"
# Rows to compare, and the batch sizes: they and the lengths differ from those of the export.
ROWS, BATCH_SIZES = 24, (1, 5, 18)
# JSON files of a final model that describe its weight files.
NOT_COPIED = (MANIFEST, "model.safetensors.index.json")
_INT64, _BOOL = 7, 9  # ONNX data type codes
# Relative to the largest output: other kernels sum float32 values in another order.
TOLERANCE = 1e-3
# Share of rows whose items may differ by more: a detector keeps its top-scoring candidates, and
# rounding can swap two that are nearly tied.
TIES = 0.1


class Network(nn.Module):
    """Module that maps inputs {name: Tensor} to the list of tensors that the task exports."""

    def __init__(self, model: TransferModel, task: Task) -> None:
        super().__init__()
        assert task.onnx is not None, "export_onnx rejects tasks without ONNX support"
        self.model = model
        self.outputs = task.onnx.outputs

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        return list(self.named(inputs).values())

    def named(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.outputs(self.model({"inputs": inputs}))


def export_onnx(
    run: str, source: Source | None, output: Path | None, trust_code: bool = False
) -> float:
    """Export a final model to a folder; return the max relative difference of its outputs.

    Raises ModelError if the task or the network cannot be exported, or if its outputs differ.
    """
    # Progress is on standard error: standard output is silenced while torch exports.
    console, progress = Console(), Console(stderr=True)
    folder = model_folder(run)
    task = load_task(folder, trust_code=trust_code)
    if task.onnx is None:
        raise ModelError(
            f"export: {task.name} does not support ONNX export; use the PyTorch model in final/"
        )
    check_installed()
    with progress.during("reading the rows"):
        rows, origin = _comparison_rows(Path(run), source, task, trust_code=trust_code)
    model = load_final_network(task, folder, trust_code=trust_code).eval()
    target = output or folder.with_name("onnx")
    prepare_folder(target)
    console.facts({"model": str(folder), "rows": f"{len(rows)} of {origin}"})
    with progress.during("exporting the network to ONNX"):
        _write_model(model, task, rows, target / MODEL)
    with progress.during(f"comparing ONNX with PyTorch on {format_count(len(rows), 'row')}"):
        differences = compare_outputs(model, task, rows, target / MODEL)
    difference = _largest_difference(differences, console)
    if not difference <= TOLERANCE:
        (target / MODEL).unlink()
        raise ModelError(
            f"{target}: max relative difference {difference:.1e} between the outputs of ONNX and "
            f"PyTorch (tolerance {TOLERANCE:.0e}); {MODEL} was removed, and final/ is intact. "
            "Please report this"
        )
    for path in folder.iterdir():  # the tokenizer, transform and label files that users need
        if path.suffix == ".json" and path.name not in NOT_COPIED:
            shutil.copy(path, target)
    console.print(f"exported to {target}")
    return difference


def compare_outputs(
    model: TransferModel, task: Task, rows: Sequence[Row], path: Path
) -> list[float]:
    """Return the max difference from PyTorch's outputs for each row, relative to the largest.

    If the order of items differs, each item is compared with the nearest one of the other side.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    input_names = [value.name for value in session.get_inputs()]
    network, differences = Network(model, task), list[float]()
    for batch in _batches(rows):
        inputs = _encode_inputs(task, batch)
        with torch.inference_mode():
            expected = network.named(inputs)
        arrays = session.run(list(expected), {name: inputs[name].numpy() for name in input_names})
        outputs = [torch.from_numpy(np.asarray(array)).float() for array in arrays]
        for index in range(len(batch)):
            pytorch = [tensor[index].float() for tensor in expected.values()]
            onnx = [tensor[index : index + 1].squeeze(0) for tensor in outputs]
            differences.append(_row_difference(pytorch, onnx))
    return differences


def _row_difference(pytorch: Sequence[Tensor], onnx: Sequence[Tensor]) -> float:
    """Compare the outputs of one row; several outputs [N, ...] describe N items in any order."""
    ordered = max(relative_difference([a], [b]) for a, b in zip(pytorch, onnx, strict=True))
    if len(pytorch) == 1 or ordered <= TOLERANCE or ordered == float("inf"):
        return ordered
    scales = [tensor.abs().max().clamp(min=1e-12) for tensor in pytorch]
    ours, theirs = (
        torch.cat([t.flatten(1) / scale for t, scale in zip(side, scales, strict=True)], dim=1)
        for side in (pytorch, onnx)
    )
    distances = torch.cdist(ours, theirs, p=float("inf"))  # [N, N]
    return max(float(distances.amin(0).max()), float(distances.amin(1).max()))


def _largest_difference(differences: Sequence[float], console: Console) -> float:
    """Return and print the largest difference, after setting aside a share of rows with ties."""
    ranked = sorted(differences, reverse=True)
    excluded = min(int(TIES * len(ranked)), sum(value > TOLERANCE for value in ranked))
    difference = ranked[excluded]
    note = f" ({format_count(excluded, 'row')} excluded: rounding swapped nearly tied candidates)"
    console.print(
        f"{MODEL} in onnxruntime compared with PyTorch on "
        f"{format_count(len(ranked) - excluded, 'row')}: max relative difference "
        f"{difference:.1e}{note if excluded else ''}"
    )
    return difference


def check_installed() -> None:
    """Raise ModelError if the libraries of the `onnx` extra are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"export: {error.name} is not installed; run: {INSTALL}") from error


def _write_model(model: TransferModel, task: Task, rows: Sequence[Row], path: Path) -> None:
    inputs = _encode_inputs(task, [*rows, *rows][:3])
    assert task.onnx is not None, "export_onnx rejects tasks without ONNX support"
    axes = dict.fromkeys(range(len(task.onnx.axes)), torch.export.Dim.DYNAMIC)
    network = Network(model, task).eval()
    with torch.inference_mode():
        outputs = list(network.named(inputs))
    try:
        with _quiet():
            torch.onnx.export(
                network,
                (),  # torch.onnx.export would treat a dict here as keyword arguments
                path,
                kwargs={"inputs": inputs},
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes={"inputs": dict.fromkeys(inputs, axes)},
                dynamo=True,
                custom_translation_table=_missing_operators(),
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"export: {type(model.network).__name__} cannot be exported to ONNX: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """Return the first line of the root cause, which the exporter wraps in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _missing_operators() -> dict[Any, Any]:
    """Translate operators that torch 2.14 cannot export: checks in some transformers networks."""
    from onnxscript import opset18 as onnx

    def is_all_true(values: Any) -> Any:
        least = onnx.ReduceMin(onnx.Cast(values, to=_INT64), keepdims=0)
        return onnx.Cast(least, to=_BOOL)

    return {torch.ops.aten._is_all_true.default: is_all_true}


def _encode_inputs(task: Task, rows: Sequence[Row]) -> dict[str, Tensor]:
    inputs: Mapping[str, Tensor] = encode_batch(task, rows)["inputs"]
    return dict(inputs)


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = 0
    for size in BATCH_SIZES:
        if batch := rows[start : start + size]:
            yield batch
        start += size


def _comparison_rows(
    run: Path, source: Source | None, task: Task, *, trust_code: bool
) -> tuple[list[Row], str]:
    """Return rows to compare on, from `source` or else from the run's data, and their origin."""
    if source is not None:
        origin = source.reference
        table, _ = open_rows(origin, source.config, source.split, task.config.formats)
    else:
        table, origin = _rows_of_run(run, task, trust_code=trust_code)
    check_columns(origin, table.column_names, task)
    step = max(1, len(table) // (4 * ROWS))
    sampled = take_rows(table, range(0, len(table), step)[: 4 * ROWS])
    rows = [input_columns(row, task) for row in sampled]
    valid = [
        row for row, faults in zip(rows, task.rows.validate_many(rows), strict=True) if not faults
    ]
    if not valid:
        raise DataError(f"{origin}: no valid rows to compare on; name other DATA")
    return _first_parts(valid[:ROWS], task), origin


def _first_parts(rows: list[Row], task: Task) -> list[Row]:
    """Replace rows that are split into parts by their first part, which the network reads alone."""
    if task.parts is None:
        return rows
    return [{**row, **parts[0]} for row, parts in zip(rows, task.parts(rows), strict=True)]


def _rows_of_run(run: Path, task: Task, *, trust_code: bool = False) -> tuple[Dataset, str]:
    """Return the run's test rows, or else its validation or training rows, and their origin."""
    folder = RunFolder(run)
    if not folder.has_config:
        raise ConfigError(
            f"export: {run} has no config that names its data; name rows: export {run} DATA"
        )
    config = folder.read_section("data", DataConfig)
    if config.source is None and config.train is None:
        raise ConfigError(
            f"export: {run} was trained on in-memory data; name rows: export {run} DATA"
        )
    if config.map is not None:
        file = run / "config.yaml"
        check_stored_code("data.map", config.map, file, trust_code=trust_code)
    tables = assign_roles(config, None, task.config.formats).tables
    role: Role = next(role for role in ("test", "validation", "train") if role in tables)
    rows, _, _ = drop_unreadable(tables[role], role)
    if config.map is not None:
        rows, _, _ = map_rows(role, rows, config.map, None)
    file_or_share = getattr(config, role)
    reference = file_or_share if isinstance(file_or_share, str) else config.source or config.train
    return rows, f"{reference} ({role})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress messages and warnings, which users cannot act on."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
