"""A vector of every row of a table, by a network as it was pretrained or fine-tuned, to parquet.

    <output>.parts/  manifest.json  part-000000.parquet ...

Rows are embedded a window at a time, window k by process k mod P, each into a part of its own. A
part carries the digest of what made it, so a command that is started again keeps what still holds.
Parts are joined when all are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from finetune.batching.data_loader import map_by_length
from finetune.batching.row_cache import digest_model
from finetune.config.loading import section_faults
from finetune.config.schema import ModelConfig
from finetune.data.opening import FIRST_VALUES, open_rows
from finetune.data.source import Source, make_source
from finetune.distributed.devices import to_device
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError, DataError, FinetuneError, ModelError, nearest, refuse_all
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.predictor import WINDOW, check_columns, input_columns
from finetune.io.files import atomic, write_json
from finetune.model import Batch, TransferModel, saved_model
from finetune.registry import find_task, task_names
from finetune.reporting.console import Console, format_count
from finetune.task import Task
from finetune.task_parts import Row, take_rows

SUFFIX = ".parquet"
DIGEST = b"made_of"


@dataclass
class RowEmbedder:
    """A network whose `features` are vectors [B, H], and the task that encodes for it.

    Attributes:
        cut: how many of the rows so far the network could not read to their end.
    """

    task: Task
    model: TransferModel
    accelerator: Accelerator
    batch_size: int
    cut: int = 0

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """The vectors of good rows, float32 [N, H]."""
        measured = self.task.lengths(rows)
        self.cut += sum(length.cut > 0 for length in measured)

        def embed(batch: Batch) -> list[Tensor]:
            inputs = to_device(batch["inputs"], self.accelerator.device)
            with torch.inference_mode(), self.accelerator.autocast():
                return list(_one_vector(self.model.features(inputs)))

        return torch.stack(map_by_length(self.task, rows, measured, self.batch_size, embed)).numpy()


def embed(
    model: str | Path,
    data: Any,
    output: str | Path,
    *,
    batch_size: int = 32,
    precision: str | None = None,
    **keys: Any,
) -> int:
    """Write a vector of every row of `data` to a parquet file; how many rows that are.

    `model` is a pretrained network or a fine-tuned run, `data` whatever `finetune.train` takes.
    `keys` say how it is read (limit=200), or are keys of the task ("task.max_length"); task=NAME
    chooses one where the columns fit several. Raises FinetuneError.
    """
    own = {key: keys.pop(key) for key in list(keys) if key == "task" or key.startswith("task.")}
    task_keys = {key.partition(".")[2] or "name": value for key, value in own.items()}
    source = make_source(data, keys, "call")
    return embed_rows(str(model), source, task_keys, Path(output), batch_size, precision)


def embed_rows(
    model: str,
    source: Source,
    keys: Mapping[str, Any],
    output: Path,
    batch_size: int,
    precision: str | None = None,
) -> int:
    """Write {"row": its number from 0, "vector": float32 [H]} for all rows of `source`.

    Returns their number. Rows that cannot be read end it, or are left out under on_error=skip; so
    do the numbers of rows. `precision` is that of the network's computation; left out, the device
    chooses. Raises FinetuneError.
    """
    if output.suffix != SUFFIX:
        raise ConfigError(f"-o {output}: vectors are written as parquet; name a {SUFFIX} file")
    state = this_process()
    console = Console(speaks=state.is_main_process)
    table, notes = open_rows(source.reference, source.config, source.split)
    chosen, reason = choose_precision(precision, state.device)
    accelerator = make_accelerator(chosen)
    task, network = _find_network(model, table, keys, notes)
    embedder = RowEmbedder(task, network.to(accelerator.device).eval(), accelerator, batch_size)
    where = f"{accelerator.device.type}, {chosen}: {reason}"
    facts = {"data": "\n".join(notes), "task": task.name, "device": where}
    console.facts({name: text for name, text in facts.items() if text})

    digest = digest_model(network, chosen)
    digest.update(task.resolved_.model_dump_json().encode())
    parts = _Parts(output, digest.hexdigest(), len(table))
    if state.is_main_process:
        parts.begin()
    accelerator.wait_for_everyone()
    rank, processes = accelerator.process_index, accelerator.num_processes
    kept = 0
    with console.count(len(table), "rows") as advance:
        for place in range(rank, parts.count, processes):
            kept += _embed_window(embedder, table, place, parts, source)
            advance(min(WINDOW, len(table)))
    accelerator.wait_for_everyone()
    cut = sum(gather_object([embedder.cut]))
    if not state.is_main_process:
        return 0
    done = parts.join()
    if cut:
        console.print(f"{cut} of {done} rows are longer than the network reads: they were cut")
    found = f", {format_count(kept, 'part')} found done" if kept else ""
    left = f", {len(table) - done} left out" if done < len(table) else ""
    console.print(f"{done} rows with vectors{left}{found}: {output}")
    return done


def _embed_window(
    embedder: RowEmbedder, table: Any, place: int, parts: _Parts, source: Source
) -> bool:
    """Embed one window of rows into its part; True if that was there."""
    task, first = embedder.task, place * WINDOW
    indices = list(range(first, min(first + WINDOW, len(table))))
    rows = [input_columns(row, task) for row in take_rows(table, indices)]
    good = []
    for index, row, faults in zip(indices, rows, task.rows.validate_many(rows), strict=True):
        if not faults:
            good.append((index, row))
        elif source.config.on_error == "stop":
            raise DataError(
                f"{source.name}: row {index + 1}: {'; '.join(faults)}; mend it, or leave such "
                "rows out with on_error=skip. What is done is kept: the same command goes on"
            )
    kept = [row for _, row in good]
    digest = hashlib.sha256(
        repr([task.rows.identity(row) for row in kept]).encode("utf-8", "replace")
    )
    if parts.holds(place, digest.hexdigest()):
        return True
    vectors = embedder(kept) if kept else np.zeros((0, 0), dtype=np.float32)
    parts.write(place, [index for index, _ in good], vectors, digest.hexdigest())
    return False


class _Parts:
    """The parts of an output, each whole or not there."""

    def __init__(self, output: Path, made_of: str, rows: int) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self.facts = {"made_of": made_of, "window": WINDOW, "rows": rows}
        self.count = -(-rows // WINDOW)

    def begin(self) -> None:
        """Make the folder; parts of another network, or of a table of another size, go."""
        manifest = self.folder / "manifest.json"
        held = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
        try:
            if held != self.facts:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(manifest, self.facts)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error}") from error

    def holds(self, place: int, digest: str) -> bool:
        path = self._path(place)
        if not path.is_file():
            return False
        metadata = pa.parquet.read_schema(path).metadata or {}
        return bool(metadata.get(DIGEST) == digest.encode())

    def write(self, place: int, rows: list[int], vectors: np.ndarray, digest: str) -> None:
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]) if len(rows) else None
        arrays = {"row": pa.array(rows, type=pa.int64())}
        if column is not None:
            arrays["vector"] = column
        table = pa.table(arrays).replace_schema_metadata({DIGEST: digest.encode()})
        try:
            with atomic(self._path(place)) as beside:
                pa.parquet.write_table(table, beside)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error}") from error

    def join(self) -> int:
        """Write the output of all parts, in order, and remove them; how many rows it has."""
        done = 0
        with atomic(self.output) as beside, ExitStack() as stack:
            writer = None
            for place in range(self.count):
                table = pa.parquet.read_table(self._path(place)).replace_schema_metadata(None)
                if table.num_rows and writer is None:
                    writer = stack.enter_context(pa.parquet.ParquetWriter(beside, table.schema))
                if writer is not None:
                    writer.write_table(table)
                    done += table.num_rows
            if writer is None:
                raise DataError(f"{self.output}: no row is left to embed")
        shutil.rmtree(self.folder)
        return done

    def _path(self, place: int) -> Path:
        return self.folder / f"part-{place:06d}{SUFFIX}"


def _find_network(
    reference: str, table: Any, keys: Mapping[str, Any], notes: list[str]
) -> tuple[Task, TransferModel]:
    """The network of a run, or a pretrained one under the task that the columns fit."""
    if _is_of_this_kit(reference):
        folder = model_folder(reference)
        task = load_task(folder, {key: keys[key] for key in keys if key != "name"}, embeds=True)
        network = task.load_model(saved_model(folder))
    else:
        task = _find_task(table[:FIRST_VALUES], keys, notes)
        assert task.embedder is not None, "_find_task takes no other"
        network = task.embedder.build(ModelConfig(name=reference))
    check_columns("the rows", table.column_names, task)
    if not network.cacheable:
        raise ModelError(
            f"{reference}: the head of this network reads no single vector of a row; train with a "
            "pooled head (task.head=pooled), or embed the pretrained network"
        )
    return task, network


def _is_of_this_kit(reference: str) -> bool:
    """Whether a model was fine-tuned by this kit; of one on a hub a single small file is asked."""
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
    """The one task that reads these columns and has vectors of rows."""
    found: list[tuple[Task, list[str]]] = []
    faults: list[str] = []
    names = [str(keys["name"])] if "name" in keys else _embedding_tasks(keys)
    for name, kind in zip(names, map(find_task, names), strict=True):
        values = {"name": name, **keys}
        try:
            refuse_all("task", section_faults("task", kind.Config, values, "command line"))
            task = kind(kind.Config(**values))
            if task.embedder is None:
                raise ModelError(f"embed: {name} has no vector of a row")
            resolved = task.rows.resolve(columns, with_targets=False)
            task.settle(resolved.keys)
            found.append((task, resolved.notes))
        except FinetuneError as error:
            faults.append(f"{name}: {error}")
    if not found:
        raise DataError("\n".join(["embed: which task reads these columns?", *faults]))
    if len(found) > 1:
        both = " or ".join(task.name for task, _ in found)
        raise DataError(f"embed: {both} could read these columns; choose with task=NAME")
    task, said = found[0]
    notes += said
    return task


def _embedding_tasks(keys: Collection[str]) -> list[str]:
    """The tasks with vectors of rows that have these keys. Raises ConfigError if none has them."""
    fields = {name: find_task(name).Config.model_fields.keys() for name in sorted(task_names())}
    found = [name for name, known in fields.items() if known >= {*keys}]
    if not found:
        known = set[str]().union(*fields.values())
        odd = {key: nearest(key, known) for key in keys if key not in known}
        refuse_all(
            "embed",
            [f"task.{key}: no task with vectors has it; {hint}" for key, hint in odd.items()],
        )
        raise ConfigError(f"embed: no one task has the keys {', '.join(keys)}; name one: task=NAME")
    return found


def _one_vector(features: dict[str, Tensor]) -> Tensor:
    """The one tensor [B, H] of features, in float32 on the CPU."""
    (vectors,) = features.values()
    return vectors.flatten(1).float().cpu()
