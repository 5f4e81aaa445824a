"""Embedding: one vector per row of a table, by a pretrained or fine-tuned network.

For a file, rows are embedded one window at a time, window k by process k mod P, each written to its
own part file (`finetune.inference.part_files`), so that a restarted command reuses finished parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor

from finetune.batching.data_loader import map_by_length
from finetune.batching.feature_key import digest_model
from finetune.data.opening import open_numbered_rows
from finetune.data.source import RowsRequest, Source
from finetune.distributed.devices import to_device
from finetune.distributed.fp32_products import fast_products
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision, quick_inference
from finetune.errors import DataError, format_count
from finetune.inference.embedding_network import find_network
from finetune.inference.model_loading import computing
from finetune.inference.part_files import PartFiles, check_vector_file
from finetune.inference.predictor import WINDOW, input_columns
from finetune.model import Batch, TransferModel
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts.samples import Lengths, Row, take_rows


@dataclass
class RowEmbedder:
    """A network whose `features` are vectors [B, H], and the task that encodes rows for it.

    Attributes:
        place: where the network was loaded from, for messages.
        cut: number of rows so far that were truncated to the network's maximum length.
    """

    task: Task
    model: TransferModel
    accelerator: Accelerator
    batch_size: int
    place: str
    precision: str
    cut: int = 0

    def __call__(self, rows: Sequence[Row]) -> np.ndarray:
        """Embed valid rows; return float32 [N, H]."""
        lengths = self.task.lengths(rows)
        self.cut += int((Lengths.of(lengths).cut > 0).sum())

        def embed(batch: Batch) -> list[Tensor]:
            inputs = to_device(batch["inputs"], self.accelerator.device)
            with computing(self.place), torch.inference_mode(), self.accelerator.autocast():
                return list(_one_vector(self.model.features(inputs)))

        device = self.accelerator.device
        work = self.task, rows, lengths, self.batch_size, embed
        quick = quick_inference(self.model, device, self.accelerator.mixed_precision)
        with fast_products(device), quick:
            vectors = map_by_length(*work, pads_little=device.type == "cpu")
        return torch.stack(vectors).numpy()


def embed_rows(request: RowsRequest, output: Path | None) -> np.ndarray | int:
    """Embed rows in memory or to a file.

    A file gets {"row": number from 0, "vector": float32 [H]} for each row, and the number of rows
    is returned. An invalid row raises DataError; with on_error=skip it and its number are skipped.
    Raises FinetuneError.
    """
    if output is not None:
        check_vector_file(output)
    console = Console(enabled=this_process().is_main_process)
    embedder, inputs = open_embedding(request, console)
    if output is None:
        return _embed_in_memory(embedder, inputs, console)
    return write_vectors(embedder, inputs, output, console)


def open_embedding(request: RowsRequest, console: Console) -> tuple[RowEmbedder, EmbeddingInputs]:
    """Open the rows and load the network that embeds them. Raises FinetuneError."""
    model, source = request.model, request.source
    with console.during("reading the rows"):
        table, notes, numbers = open_numbered_rows(source.reference, source.config, source.split)
    chosen, reason = choose_precision(request.precision, this_process().device)
    accelerator = make_accelerator(chosen)
    with console.during("loading the network"):
        task, network, table = find_network(
            model, table, source.options, notes, trust_code=request.trust_code
        )
    network = network.to(accelerator.device).eval()
    embedder = RowEmbedder(task, network, accelerator, request.batch_size, model, chosen)
    hardware = f"{accelerator.device.type}, {chosen}: {reason}"
    facts = {"data": "\n".join(notes), "task": task.name, "device": hardware}
    console.facts({name: text for name, text in facts.items() if text})
    return embedder, EmbeddingInputs(table, numbers, source)


def write_vectors(
    embedder: RowEmbedder, inputs: EmbeddingInputs, output: Path, console: Console
) -> int:
    """Embed the rows to a Parquet file, shared by all processes; return their number."""
    parts, table = _part_files(embedder, inputs, output, console), inputs.table
    rank = embedder.accelerator.process_index
    processes, is_main = embedder.accelerator.num_processes, rank == 0
    reused = 0
    with parts.prepared() if is_main else nullcontext():
        embedder.accelerator.wait_for_everyone()
        with console.count(len(table), "rows") as advance:
            for number in range(rank, parts.count, processes):
                reused += _embed_window(embedder, inputs, number, parts)
                advance(min(WINDOW, len(table)))
        embedder.accelerator.wait_for_everyone()
        truncated = sum(gather_object([embedder.cut]))
        if not is_main:
            return 0
        done = parts.concatenate()
    _note_truncated(truncated, done, console)
    skipped_note = f", {len(table) - done} skipped" if done < len(table) else ""
    reused_note = f", {format_count(reused, 'part')} reused from an earlier start" if reused else ""
    console.print(f"{done} vectors written to {output}{skipped_note}{reused_note}")
    return done


def has_vectors(
    embedder: RowEmbedder, inputs: EmbeddingInputs, output: Path, console: Console
) -> bool:
    """True if a file holds the vectors of exactly these rows by this network."""
    if not output.is_file():
        return False
    parts = _part_files(embedder, inputs, output, console)
    digests = (_digest_window(embedder.task, inputs, number)[2] for number in range(parts.count))
    return parts.is_finished(digests)


def _part_files(
    embedder: RowEmbedder, inputs: EmbeddingInputs, output: Path, console: Console
) -> PartFiles:
    with console.during("hashing the weights"):
        digest = digest_model(embedder.model, embedder.precision)
    digest.update(embedder.task.resolved_.model_dump_json().encode())
    return PartFiles(output, digest.hexdigest(), len(inputs.table), WINDOW)


@dataclass(frozen=True)
class EmbeddingInputs:
    """Rows to embed, with their numbers in the source, from 1."""

    table: Dataset
    numbers: Sequence[int]
    source: Source

    def indices_of(self, places: Iterable[int]) -> list[int]:
        """Return the indices in the table of rows whose places in the source are given, from 0."""
        indices = {number - 1: index for index, number in enumerate(self.numbers)}
        return [indices[place] for place in places]

    def valid(self, task: Task, window: int) -> tuple[list[int], list[Row]]:
        """Return the places in the source of the valid rows of a window, from 0, and these rows."""
        indices = range(window * WINDOW, min((window + 1) * WINDOW, len(self.table)))
        rows = [input_columns(row, task) for row in take_rows(self.table, indices)]
        valid = []
        for index, row, faults in zip(indices, rows, task.rows.validate_many(rows), strict=True):
            if not faults:
                valid.append((self.numbers[index] - 1, row))
            elif self.source.config.on_error == "stop":
                raise DataError(
                    f"{self.source.name}: row {self.numbers[index]}: {'; '.join(faults)}; fix the "
                    "row, or skip such rows with on_error=skip"
                )
        return [place for place, _ in valid], [row for _, row in valid]


def _embed_in_memory(
    embedder: RowEmbedder, inputs: EmbeddingInputs, console: Console
) -> np.ndarray:
    """Return the vectors of the valid rows, float32 [N, H]; each process embeds all of them."""
    vectors, table, source = [], inputs.table, inputs.source
    with console.count(len(table), "rows") as advance:
        for window in range(-(-len(table) // WINDOW)):
            _, rows = inputs.valid(embedder.task, window)
            vectors += [embedder(rows)] if rows else []
            advance(min(WINDOW, len(table)))
    if not vectors:
        raise DataError(f"{source.name}: no valid rows to embed; fix the rows")
    whole = np.concatenate(vectors)
    _note_truncated(embedder.cut, len(whole), console)
    if len(whole) < len(table):
        console.print(f"{len(table) - len(whole)} of {len(table)} rows skipped")
    return whole


def _note_truncated(truncated: int, rows: int, console: Console) -> None:
    if truncated:
        console.print(f"{truncated} of {rows} rows truncated to the maximum length of the model")


def _embed_window(
    embedder: RowEmbedder, inputs: EmbeddingInputs, number: int, parts: PartFiles
) -> bool:
    """Embed one window of rows into its part file; return True if a valid part already existed."""
    places, rows, digest = _digest_window(embedder.task, inputs, number)
    if parts.is_valid(number, digest):
        return True
    vectors = embedder(rows) if rows else np.zeros((0, 0), dtype=np.float32)
    parts.write(number, places, vectors, digest)
    return False


def _digest_window(
    task: Task, inputs: EmbeddingInputs, number: int
) -> tuple[list[int], list[Row], str]:
    """Return the valid rows of a window, their places from 0, and the digest of both."""
    places, rows = inputs.valid(task, number)
    identities = list(zip(places, map(task.rows.identity, rows), strict=True))
    return places, rows, hashlib.sha256(repr(identities).encode("utf-8", "replace")).hexdigest()


def _one_vector(features: dict[str, Tensor]) -> Tensor:
    """Return the single tensor of `features` as float32 [B, H] on the CPU."""
    (vectors,) = features.values()
    return vectors.flatten(1).float().cpu()
