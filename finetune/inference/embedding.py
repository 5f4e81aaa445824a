"""Embedding: one vector per row of a table, by a pretrained or fine-tuned network, to parquet.

Rows are embedded one window at a time, window k by process k mod P, each written to its own part
file (`finetune.inference.part_files`), so that a restarted command reuses finished parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor

from finetune.batching.data_loader import map_by_length
from finetune.batching.row_cache import digest_model
from finetune.config.loading import section_faults
from finetune.config.schema import ModelConfig
from finetune.data.opening import FIRST_VALUES, open_numbered_rows
from finetune.data.source import Source, make_source
from finetune.distributed.devices import to_device
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    ModelError,
    nearest,
    raise_for_faults,
)
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.part_files import PartFiles, check_vector_file
from finetune.inference.predictor import WINDOW, check_columns, input_columns
from finetune.model import Batch, TransferModel, saved_model
from finetune.registry import find_task, task_names
from finetune.reporting.console import Console, format_count
from finetune.task import Task
from finetune.task_parts import Row, take_rows


@dataclass
class RowEmbedder:
    """A network whose `features` are vectors [B, H], and the task that encodes rows for it.

    Attributes:
        cut: number of rows so far that were truncated to the network's maximum length.
    """

    task: Task
    model: TransferModel
    accelerator: Accelerator
    batch_size: int
    cut: int = 0

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """Embed valid rows; return float32 [N, H]."""
        lengths = self.task.lengths(rows)
        self.cut += sum(length.cut > 0 for length in lengths)

        def embed(batch: Batch) -> list[Tensor]:
            inputs = to_device(batch["inputs"], self.accelerator.device)
            with torch.inference_mode(), self.accelerator.autocast():
                return list(_one_vector(self.model.features(inputs)))

        return torch.stack(map_by_length(self.task, rows, lengths, self.batch_size, embed)).numpy()


def embed(
    model: str | Path,
    data: Any,
    output: str | Path,
    *,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> int:
    """Write one vector per row of `data` to a parquet file; return the number of rows.

    `model` is a pretrained network or a fine-tuned run, `data` anything that `finetune.train`
    takes. `keys` set how the data is read (limit=200) or set keys of the task ("task.max_length");
    task=NAME selects the task if the columns fit several. Code that a run names runs only with
    `trust_code`. Raises FinetuneError.
    """
    chosen = {key: keys.pop(key) for key in list(keys) if key == "task" or key.startswith("task.")}
    task_keys = {key.partition(".")[2] or "name": value for key, value in chosen.items()}
    source = make_source(data, keys, "call")
    return embed_rows(
        str(model), source, task_keys, Path(output), batch_size, precision, trust_code=trust_code
    )


def embed_rows(
    model: str,
    source: Source,
    keys: Mapping[str, Any],
    output: Path,
    batch_size: int,
    precision: str | None = None,
    *,
    trust_code: bool = False,
) -> int:
    """Write {"row": number from 0, "vector": float32 [H]} for each row of `source`.

    Returns the number of rows written. An invalid row raises DataError; with on_error=skip it and
    its number are skipped. `precision` of the computation defaults to what suits the device. Raises
    FinetuneError.
    """
    check_vector_file(output)
    state = this_process()
    console = Console(enabled=state.is_main_process)
    table, notes, numbers = open_numbered_rows(source.reference, source.config, source.split)
    chosen, reason = choose_precision(precision, state.device)
    accelerator = make_accelerator(chosen)
    task, network = _find_network(model, table, keys, notes, trust_code=trust_code)
    embedder = RowEmbedder(task, network.to(accelerator.device).eval(), accelerator, batch_size)
    hardware = f"{accelerator.device.type}, {chosen}: {reason}"
    facts = {"data": "\n".join(notes), "task": task.name, "device": hardware}
    console.facts({name: text for name, text in facts.items() if text})

    digest = digest_model(network, chosen)
    digest.update(task.resolved_.model_dump_json().encode())
    parts = PartFiles(output, digest.hexdigest(), len(table), WINDOW)
    if state.is_main_process:
        parts.prepare()
    accelerator.wait_for_everyone()
    rank, processes = accelerator.process_index, accelerator.num_processes
    reused = 0
    with console.count(len(table), "rows") as advance:
        for number in range(rank, parts.count, processes):
            reused += _embed_window(embedder, table, number, parts, source, numbers)
            advance(min(WINDOW, len(table)))
    accelerator.wait_for_everyone()
    truncated = sum(gather_object([embedder.cut]))
    if not state.is_main_process:
        return 0
    done = parts.concatenate()
    if truncated:
        console.print(
            f"{truncated} of {done} rows truncated to the maximum length that the network reads"
        )
    skipped_note = f", {len(table) - done} skipped" if done < len(table) else ""
    reused_note = f", {format_count(reused, 'part')} reused from an earlier start" if reused else ""
    console.print(f"{done} vectors written to {output}{skipped_note}{reused_note}")
    return done


def _embed_window(
    embedder: RowEmbedder,
    table: Dataset,
    number: int,
    parts: PartFiles,
    source: Source,
    numbers: Sequence[int],
) -> bool:
    """Embed one window of rows into its part file; return True if a valid part already existed."""
    task, first = embedder.task, number * WINDOW
    indices = list(range(first, min(first + WINDOW, len(table))))
    rows = [input_columns(row, task) for row in take_rows(table, indices)]
    valid = []
    for index, row, faults in zip(indices, rows, task.rows.validate_many(rows), strict=True):
        if not faults:
            valid.append((numbers[index] - 1, row))
        elif source.config.on_error == "stop":
            raise DataError(
                f"{source.name}: row {numbers[index]}: {'; '.join(faults)}; fix the row, or skip "
                "such rows with on_error=skip. Finished parts are kept; rerun the command to"
                " continue"
            )
    kept = [row for _, row in valid]
    digest = hashlib.sha256(
        repr([(place, task.rows.identity(row)) for place, row in valid]).encode("utf-8", "replace")
    )
    if parts.is_valid(number, digest.hexdigest()):
        return True
    vectors = embedder(kept) if kept else np.zeros((0, 0), dtype=np.float32)
    parts.write(number, [index for index, _ in valid], vectors, digest.hexdigest())
    return False


def _find_network(
    reference: str,
    table: Dataset,
    keys: Mapping[str, Any],
    notes: list[str],
    *,
    trust_code: bool,
) -> tuple[Task, TransferModel]:
    """Load a run's task and network, or a pretrained network and the task that fits the columns."""
    if _is_fine_tuned(reference):
        folder = model_folder(reference)
        task_keys = {key: keys[key] for key in keys if key != "name"}
        task = load_task(folder, task_keys, embeds=True, trust_code=trust_code)
        network = task.load_model(saved_model(folder, trust_remote_code=trust_code))
    else:
        task = _find_task(table[:FIRST_VALUES], keys, notes)
        assert task.embedder is not None, "_find_task returns only tasks that embed"
        network = task.embedder.build(ModelConfig(name=reference))
    check_columns("the rows", table.column_names, task)
    if not network.cacheable:
        raise ModelError(
            f"{reference}: the head of this network does not read a single vector per row; train "
            "with a pooled head (task.head=pooled), or embed with the pretrained network"
        )
    return task, network


def _is_fine_tuned(reference: str) -> bool:
    """True if this kit fine-tuned the model; for a hub id, only task.json is downloaded."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    path = Path(reference)
    if path.is_dir():
        names = ("task.json", "run.json", "final/task.json")
        return any((path / name).is_file() for name in names)
    if "://" in reference or reference.count("/") != 1:
        return False
    try:
        hf_hub_download(reference, "task.json")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return False
    return True


def _find_task(columns: Any, keys: Mapping[str, Any], notes: list[str]) -> Task:
    """Return the one task that can read these columns and embed rows."""
    candidates: list[tuple[Task, list[str]]] = []
    faults: list[str] = []
    names = [str(keys["name"])] if "name" in keys else _embedding_tasks(keys)
    for name, task_class in zip(names, map(find_task, names), strict=True):
        values = {"name": name, **keys}
        try:
            config_faults = section_faults("task", task_class.Config, values, "command line")
            raise_for_faults("task", config_faults)
            task = task_class(task_class.Config(**values))
            if task.embedder is None:
                raise ModelError("this task does not embed rows")
            resolved = task.rows.resolve(columns, with_targets=False)
            task.settle(resolved.keys)
            candidates.append((task, resolved.notes))
        except FinetuneError as error:
            faults.append(f"{name}: {error}")
    if not candidates:
        raise DataError("\n".join(["embed: no task can read these columns:", *faults]))
    if len(candidates) > 1:
        task_list = " or ".join(task.name for task, _ in candidates)
        raise DataError(f"embed: {task_list} could read these columns; choose with task=NAME")
    task, task_notes = candidates[0]
    notes += task_notes
    return task


def _embedding_tasks(keys: Collection[str]) -> list[str]:
    """List the tasks that have all of these keys. Raises ConfigError if there are none."""
    fields = {name: find_task(name).Config.model_fields.keys() for name in sorted(task_names())}
    names = [name for name, known in fields.items() if known >= {*keys}]
    if not names:
        known = set[str]().union(*fields.values())
        unknown = {key: nearest(key, known) for key in keys if key not in known}
        raise_for_faults(
            "embed",
            [f"task.{key}: no task has this key; {hint}" for key, hint in unknown.items()],
        )
        raise ConfigError(
            f"embed: no task has all of the keys {', '.join(keys)}; choose a task with task=NAME"
        )
    return names


def _one_vector(features: dict[str, Tensor]) -> Tensor:
    """Return the single tensor of `features` as float32 [B, H] on the CPU."""
    (vectors,) = features.values()
    return vectors.flatten(1).float().cpu()
