"""A fine-tuned model that predicts: from a run, from its final folder, or from a model hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.casting import computing_in
from finetune.config import READING
from finetune.console import Console
from finetune.data.loading import to_device
from finetune.data.parts import rows_at_once
from finetune.data.plan import blocks_by_length
from finetune.data.records import is_frame
from finetune.defaults import choose_precision
from finetune.errors import ConfigError, DataError, ModelError, nearest
from finetune.integrity import check_files, read_json
from finetune.model import TransferModel
from finetune.overrides import section_faults
from finetune.patience import redact, with_patience
from finetune.processes import MIXED
from finetune.registry import find_task
from finetune.task import Prediction, Row, Task

# Rows read ahead of a stream, so that rows of similar length can share a batch.
WINDOW = 1024
# Files that may hold code, which no model of this kit has: they are not even fetched.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.msgpack")


class Predictor:
    """A task with its fine-tuned model: called with rows, it predicts each of them, in order.

    It stands where a pipeline of transformers does, in `evaluate.evaluator` say.

    Attributes:
        precision: of its computation: fp32, bf16 or fp16.
        cut: how many of the rows predicted so far the model could not read to their end.
    """

    def __init__(
        self, adapter: Task, model: TransferModel, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.adapter = adapter
        self.model = model.to(device).eval()
        self.device = device
        self.precision = precision
        self.cut = 0

    @property
    def task(self) -> str:
        """The name of the pipeline whose predictions these are like."""
        return self.adapter.about(self.model).pipeline or self.adapter.name

    def __call__(self, rows: Any, batch_size: int = 32, **_: Any) -> list[Any]:
        """Predictions for a list of rows, a datasets.Dataset, a DataFrame, or bare values (texts).

        Bare values fit where a prediction reads one column. A single row gives a list of one. Each
        is of the types that the transformers pipeline gives, those of `stream` are JSON-able. What
        else a pipeline may be told (truncation=True), the model has settled.
        """
        rows = as_rows(rows, self.adapter)
        return list(map(self.adapter.present, self.stream(rows, batch_size)))

    def stream(self, rows: Iterable[Row], batch_size: int = 32) -> Iterator[Prediction]:
        """Predictions in the order of `rows`, read a window at a time.

        Raises DataError for a row that cannot be predicted.
        """
        source = iter(rows)
        start = 1
        while window := list(islice(source, WINDOW)):
            for number, row in enumerate(window, start):
                check_columns(f"row {number}", row, self.adapter)
                for fault in self.adapter.validate(unlabelled(row, self.adapter)):
                    raise DataError(f"row {number}: {fault}")
            yield from self.window(window, batch_size)
            start += len(window)

    def window(
        self, rows: Sequence[Row], batch_size: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Predictions for good rows that are in memory; `advance` is told of every batch."""
        rows = [unlabelled(row, self.adapter) for row in rows]
        measured = self.adapter.lengths_to_predict(rows)
        self.cut += sum(length.cut > 0 for length in measured)
        lengths = np.array([length.used for length in measured], dtype=np.int64)
        found: dict[int, Prediction] = {}
        with torch.inference_mode(), computing_in(self.precision, self.model, self.device):
            for piece in blocks_by_length(lengths, rows_at_once(self.adapter, batch_size)):
                batch = self.adapter.collate(
                    [self.adapter.encode(rows[index]) for index in piece.indices]
                )
                predictions = self.adapter.predict(self.model, to_device(batch, self.device))
                found.update(zip(piece.indices, predictions, strict=True))
                advance(len(piece.indices))
        return [found[index] for index in range(len(rows))]


def load(
    reference: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    **keys: Any,
) -> Predictor:
    """The predictor of a run folder, of a `final/` folder, or of a model on the hub.

    `keys` of the task replace those it was trained with: score_threshold=0.5, say. Left out,
    `precision` is fp32; bf16 is faster where the device has it, and rounds. No pickle is read, and
    code that comes with the model runs only if it is trusted. Raises ModelError if there is no such
    model, or if this kit did not make it.
    """
    place = find_device(device) if device else best_device()
    precision = check_precision(precision, place)
    folder = model_folder(reference, revision, token)
    task = load_task(folder, keys, trust_remote_code=trust_remote_code)
    return Predictor(task, task.load_model(folder), place, precision)


def load_task(
    folder: Path, keys: Mapping[str, Any] | None = None, *, trust_remote_code: bool = False
) -> Task:
    """The task of a final model with what it learned; the network is not loaded.

    Raises ConfigError for `keys` that predictions of the task do not change.
    """
    held = read_task(folder)
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        raise ModelError(f"{folder}: holds no weights as safetensors, and no others are read")
    check_files(folder, weights.union(held.get("files", [])))
    task_class = find_task(held["name"])
    task = task_class(task_class.Config.model_validate(held["config"]))
    adjust_task(task, keys or {})
    task.trusts_code = trust_remote_code
    task.restore(held["state"], folder)
    return task


def adjust_task(task: Task, keys: Mapping[str, Any]) -> None:
    """Give a trained task the keys that may be others for predictions. Raises ConfigError."""
    faults = [
        f"{key}: is no key that predictions of {task.name} change; "
        f"{nearest(key, {*task.prediction_keys, *READING})}"
        for key in keys
        if key not in task.prediction_keys
    ]
    values = {**task.config.model_dump(), **keys}
    faults = faults or section_faults("task", type(task.config), values, "for predictions")
    if faults:
        raise ConfigError("\n  ".join(["the keys have faults:", *faults]))
    task.config = type(task.config).model_validate(values)


def model_folder(
    reference: str | Path, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder of a model: `final/` of a run, the folder itself, or a copy from the hub."""
    path = Path(reference)
    if path.is_dir():
        if (path / "final" / "task.json").is_file():
            return path / "final"
        if (path / "run.json").is_file():
            raise ModelError(
                f"{path}: this run has no final model yet; run its training command again"
            )
        return _checked(path, str(path))
    if path.exists():
        raise ModelError(f"{reference}: is a file; give a run, its final/, or a hub id OWNER/NAME")
    if str(reference).startswith((".", "/", "~")) or str(reference).count("/") != 1:
        raise ModelError(
            f"{reference}: there is no such folder; give a run, its final/, or a hub id OWNER/NAME"
        )
    return _checked(_from_hub(str(reference), revision, token), str(reference))


def _from_hub(reference: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = with_patience(
            lambda: snapshot_download(
                reference, revision=revision, token=token, ignore_patterns=list(PICKLED)
            ),
            Console(stderr=True),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # A hub may echo what it was sent, so the exceptions behind this one are not shown.
        behind = "" if isinstance(error, HfHubHTTPError) else error.__cause__ or ""
        said = redact(" ".join(f"{error} {behind}".split()), token)
        raise ModelError(
            f"{reference}: neither a folder here nor to be had from the hub: {said}"
        ) from None
    return Path(found)


def _checked(folder: Path, reference: str) -> Path:
    """The folder, if this kit wrote it."""
    if (folder / "task.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{reference}: is a LoRA adapter without its network; load it with peft, as its card "
            "shows, or push the run with --what both"
        )
    raise ModelError(
        f"{reference}: holds no model of this kit (no task.json); give a run folder or its final/"
    )


def check_precision(asked: str | None, device: torch.device) -> str:
    """The precision of predictions: what is asked for, else fp32. Raises ConfigError."""
    if asked is None:
        return "fp32"
    if asked not in MIXED:
        raise ConfigError(f"precision: {asked!r} is none; {nearest(asked, MIXED)}")
    return choose_precision(asked, device)[0]


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    # Without the check a build for CUDA names it on a machine that has none.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ConfigError if this machine, or this torch, has none such."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = " or ".join(sorted({"cpu", best_device().type}))
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device: {str(name)!r} cannot be used here ({said}); write {here}, or leave it out"
        ) from error
    return device


def as_rows(value: Any, task: Task) -> Iterable[Row]:
    """Rows from whatever holds them: one row, rows, a table, or bare values of the one column."""
    if is_frame(value):
        return [
            dict(zip(value.columns, map(_as_lists, cells), strict=True))
            for cells in value.itertuples(index=False, name=None)
        ]
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        value = [value]
    return (row if isinstance(row, dict) else task.row_of(row) for row in value)


def _as_lists(cell: Any) -> Any:
    """A cell of a DataFrame, with lists where pandas has made arrays of a table's lists."""
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return [_as_lists(item) for item in cell]
    if isinstance(cell, dict):
        return {key: _as_lists(item) for key, item in cell.items()}
    return cell


def check_columns(place: str, columns: Collection[str], task: Task) -> None:
    """Raise DataError if a column that a prediction reads is not among those of the rows."""
    for column in task.input_columns():
        if column not in columns:
            raise DataError(
                f"{place}: has no column {column!r}, which the model was trained on; "
                f"{nearest(column, columns)}"
            )


def unlabelled(row: Row, task: Task) -> Row:
    """The columns that a prediction reads: a label that training never saw must not stop it."""
    columns = task.input_columns()
    return {name: row.get(name) for name in columns} if columns else row


def read_task(folder: Path) -> dict[str, Any]:
    """What `write_task` wrote: the task's name, config and state. Raises ModelError."""
    held = read_json(folder / "task.json")
    if not isinstance(held, dict) or not {"name", "config", "state"} <= held.keys():
        raise ModelError(
            f"{folder / 'task.json'}: names no task, config and state; "
            "the folder holds no model of this kit"
        )
    return held
