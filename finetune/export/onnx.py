"""A fine-tuned network as ONNX, run by onnxruntime on real rows and compared with PyTorch."""

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
from finetune.errors import ConfigError, DataError, ModelError
from finetune.export.final_model import relative_difference
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.predictor import check_columns, input_columns
from finetune.io.run_folder import RunFolder
from finetune.model import TransferModel, saved_model
from finetune.reporting.console import Console, format_count
from finetune.task import Task
from finetune.task_parts import Row, take_rows

INSTALL = "pip install 'finetune-kit[onnx]'"
MODEL = "model.onnx"
# Rows that are compared, and in what portions: sizes and lengths that the export did not see.
ROWS, PORTIONS = 24, (1, 5, 18)
_INT64, _BOOL = 7, 9  # as ONNX numbers its types
# Of the largest output: other kernels order float32 sums otherwise.
TOLERANCE = 1e-3
# Share of the rows whose items may differ by more: a detector takes its likeliest candidates, and
# where two are nearly as likely, rounding chooses.
TIES = 0.1


class Network(nn.Module):
    """A model as a function of its inputs: {name: Tensor} to the tensors that the task exports."""

    def __init__(self, model: TransferModel, task: Task) -> None:
        super().__init__()
        assert task.onnx is not None, "a task that cannot be exported is refused before"
        self.model = model
        self.outputs = task.onnx.outputs

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        return list(self.named(inputs).values())

    def named(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.outputs(self.model({"inputs": inputs}))


def export_onnx(run: str, source: Source | None, output: Path | None) -> float:
    """Write the network of a final model to a folder; the largest difference of its outputs.

    Raises ModelError for a task or a network that cannot be exported, or whose outputs differ.
    """
    console = Console()
    folder = model_folder(run)
    task = load_task(folder)
    if task.onnx is None:
        raise ModelError(f"export: {task.name} cannot be written as ONNX; its final/ is PyTorch's")
    check_installed()
    rows, place = _rows(Path(run), source, task)
    model = task.load_model(saved_model(folder)).eval()
    target = output or folder.with_name("onnx")
    _make_folder(target)
    console.facts({"model": str(folder), "rows": f"{len(rows)} of {place}"})
    _export(model, task, rows, target / MODEL)
    difference = _judge(compare_outputs(model, task, rows, target / MODEL), console)
    if not difference <= TOLERANCE:
        (target / MODEL).unlink()
        raise ModelError(
            f"{target}: the outputs differ by {difference:.1e} of the largest (tolerance "
            f"{TOLERANCE:.0e}); {MODEL} is removed, and final/ is unharmed. Please report this"
        )
    for path in folder.iterdir():  # what encodes, and what the outputs mean
        if path.suffix == ".json" and path.stem != "model.safetensors.index":
            shutil.copy(path, target)
    console.print(f"written: {target}")
    return difference


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "is a file" if target.is_file() else f"cannot be written ({error})"
        raise ConfigError(f"-o {target}: {what}; name a folder") from error


def compare_outputs(
    model: TransferModel, task: Task, rows: Sequence[Row], path: Path
) -> list[float]:
    """How far the outputs of each row are from PyTorch's, as a share of the largest.

    Items count by the nearest item of the other side, as far as their order differs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    named = [value.name for value in session.get_inputs()]
    network, found = Network(model, task), list[float]()
    for portion in _portions(rows):
        inputs = _inputs(task, portion)
        with torch.inference_mode():
            expected = network.named(inputs)
        said = session.run(list(expected), {name: inputs[name].numpy() for name in named})
        answers = [torch.from_numpy(np.asarray(value)).float() for value in said]
        for place in range(len(portion)):
            right = [tensor[place].float() for tensor in expected.values()]
            answer = [tensor[place : place + 1].squeeze(0) for tensor in answers]
            found.append(_difference(right, answer))
    return found


def _difference(right: Sequence[Tensor], answer: Sequence[Tensor]) -> float:
    """Of one row's outputs; of several, each [N, ...], N items have no order."""
    ordered = max(relative_difference([a], [b]) for a, b in zip(right, answer, strict=True))
    if len(right) == 1 or ordered <= TOLERANCE or ordered == float("inf"):
        return ordered
    scales = [tensor.abs().max().clamp(min=1e-12) for tensor in right]
    ours, theirs = (
        torch.cat([t.flatten(1) / scale for t, scale in zip(side, scales, strict=True)], dim=1)
        for side in (right, answer)
    )
    apart = torch.cdist(ours, theirs, p=float("inf"))  # [N, N]
    return max(float(apart.amin(0).max()), float(apart.amin(1).max()))


def _judge(differences: Sequence[float], console: Console) -> float:
    """The difference that is to be tolerable, which is printed."""
    ranked = sorted(differences, reverse=True)
    spared = min(int(TIES * len(ranked)), sum(value > TOLERANCE for value in ranked))
    difference = ranked[spared]
    beside = f" ({spared} more beside, where rounding chose others of two like candidates)"
    console.print(
        f"{MODEL} by onnxruntime and the network by PyTorch: on "
        f"{format_count(len(ranked) - spared, 'row')} the outputs differ by {difference:.1e} of "
        f"the largest{beside if spared else ''}"
    )
    return difference


def check_installed() -> None:
    """Raise ModelError if the libraries of the extra are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"export: needs {error.name}; run: {INSTALL}") from error


def _export(model: TransferModel, task: Task, rows: Sequence[Row], path: Path) -> None:
    inputs = _inputs(task, [*rows, *rows][:3])
    assert task.onnx is not None, "a task that cannot be exported is refused before"
    axes = dict.fromkeys(range(len(task.onnx.axes)), torch.export.Dim.DYNAMIC)
    network = Network(model, task).eval()
    with torch.inference_mode():
        outputs = list(network.named(inputs))
    try:
        with _quiet():
            torch.onnx.export(
                network,
                (),  # a dict there would be taken for keywords
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
            f"export: {type(model.network).__name__} cannot be written as ONNX: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of what lies behind an error, which the exporter wraps in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _missing_operators() -> dict[Any, Any]:
    """What the exporter of torch 2.15 cannot write: the checks in some networks of transformers."""
    from onnxscript import opset18 as onnx

    def is_all_true(values: Any) -> Any:
        least = onnx.ReduceMin(onnx.Cast(values, to=_INT64), keepdims=0)
        return onnx.Cast(least, to=_BOOL)

    return {torch.ops.aten._is_all_true.default: is_all_true}


def _inputs(task: Task, rows: Sequence[Row]) -> dict[str, Tensor]:
    inputs: Mapping[str, Tensor] = encode_batch(task, rows)["inputs"]
    return dict(inputs)


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = 0
    for size in PORTIONS:
        if portion := rows[start : start + size]:
            yield portion
        start += size


def _rows(run: Path, source: Source | None, task: Task) -> tuple[list[Row], str]:
    """Rows to compare on: of `source`, else of the data that the run was trained with."""
    if source is not None:
        place = source.reference
        table, _ = open_rows(place, source.config, source.split, task.config.formats)
    else:
        table, place = _rows_of_run(run, task)
    check_columns(place, table.column_names, task)
    step = max(1, len(table) // (4 * ROWS))
    drawn = take_rows(table, range(0, len(table), step)[: 4 * ROWS])
    rows = [input_columns(row, task) for row in drawn]
    good = [
        row for row, faults in zip(rows, task.rows.validate_many(rows), strict=True) if not faults
    ]
    if not good:
        raise DataError(f"{place}: holds no row that can be read; name other DATA")
    return _first_parts(good[:ROWS], task), place


def _first_parts(rows: list[Row], task: Task) -> list[Row]:
    """Of a row that is seen in parts, the first one: the network reads one part at a time."""
    if task.parts is None:
        return rows
    return [{**row, **parts[0]} for row, parts in zip(rows, task.parts(rows), strict=True)]


def _rows_of_run(run: Path, task: Task) -> tuple[Dataset, str]:
    """The rows that a run was measured on, else those that it was trained on, and their place."""
    folder = RunFolder(run)
    if not folder.has_config:
        raise ConfigError(f"export: {run} does not tell its data; name rows: export {run} DATA")
    config = DataConfig(**folder.read_config()["data"])
    if config.source is None and config.train is None:
        raise ConfigError(f"export: {run} was trained on data made in Python; name rows: DATA")
    tables = assign_roles(config, None, task.config.formats).tables
    role: Role = next(role for role in ("test", "validation", "train") if role in tables)
    rows = tables[role]
    if config.map is not None:
        rows, _, _ = map_rows(role, rows, config.map, None)
    own = getattr(config, role)  # a file of its own, or a share of another's rows
    return rows, f"{own if isinstance(own, str) else config.source or config.train} ({role})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress, which nobody can act on."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
