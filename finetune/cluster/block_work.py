"""Work on blocks of rows in one process of a cluster: load a network, write a part file a block.

Beside each part lies a JSON file with its counts, written last: a part without it is not finished.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from finetune.cluster.ray_cluster import Workplace
from finetune.cluster.row_blocks import RowBlocks
from finetune.data.source import RowsRequest
from finetune.distributed.devices import best_device
from finetune.distributed.launch import make_accelerator
from finetune.distributed.precision import check_precision, choose_precision
from finetune.errors import FinetuneError
from finetune.inference.batch_predict import Tally, predict_valid, split_into_windows
from finetune.inference.embedding import EmbeddingInputs, RowEmbedder
from finetune.inference.embedding_network import find_network
from finetune.inference.model_loading import load_final_network, load_task
from finetune.inference.part_files import PartFiles
from finetune.inference.prediction_inputs import column_types, number_row
from finetune.inference.prediction_outputs import PredictionTable, output_types
from finetune.inference.predictor import WINDOW, Predictor
from finetune.io.files import write_json
from finetune.io.table_writer import open_writer
from finetune.model import TransferModel
from finetune.task import Task


@dataclass
class BlockFacts:
    """Counts of a block, or of all blocks.

    Attributes:
        names: keys of a prediction; None if no row of the block has one.
        faults: {kind of fault: number of rows}.
        caveats: {caveat of predictions: number of rows}.
    """

    rows: int = 0
    written: int = 0
    predicted: int = 0
    truncated: int = 0
    names: list[str] | None = None
    faults: dict[str, int] = field(default_factory=dict)
    caveats: dict[str, int] = field(default_factory=dict)

    def add(self, other: BlockFacts) -> None:
        """Add the counts of another block."""
        self.rows += other.rows
        self.written += other.written
        self.predicted += other.predicted
        self.truncated += other.truncated
        self.names = self.names or other.names
        self.faults = dict(Counter(self.faults) + Counter(other.faults))
        self.caveats = dict(Counter(self.caveats) + Counter(other.caveats))


def facts_path(part: Path) -> Path:
    """Return the file with the counts of a part."""
    return part.with_suffix(".json")


class BlockWorker(ABC):
    """A loaded network that writes the part files of blocks."""

    @abstractmethod
    def write(
        self, number: int, rows: Dataset, numbers: Sequence[int], parts: PartFiles
    ) -> BlockFacts:
        """Write the part of block `number`, and return its counts."""


class BlockJob(ABC):
    """What the processes of a cluster need to work on blocks: names and keys."""

    @abstractmethod
    def open(self, blocks: RowBlocks) -> BlockWorker:
        """Load the network in a process of the cluster."""


@dataclass(frozen=True)
class PredictJob(BlockJob):
    """Predictions of a fine-tuned model.

    Attributes:
        folder: of the model.
        columns: a Parquet file with the columns of all parts; None: each part has those that its
            first predictions give.
        names: keys of a prediction, if they are known.
    """

    request: RowsRequest
    folder: Path
    columns: Path | None = None
    names: list[str] | None = None

    def open(self, blocks: RowBlocks) -> BlockWorker:
        folder, request = self.folder, self.request
        task = load_task(folder, request.source.options, trust_code=request.trust_code)
        device = best_device()
        precision = check_precision(request.precision, device)
        network = load_final_network(task, folder, trust_code=request.trust_code)
        return _BlockPredictor(self, Predictor(task, network, device, precision, str(folder)))


class _BlockPredictor(BlockWorker):
    def __init__(self, job: PredictJob, predictor: Predictor) -> None:
        self.job = job
        self.predictor = predictor

    def write(
        self, number: int, rows: Dataset, numbers: Sequence[int], parts: PartFiles
    ) -> BlockFacts:
        task, truncated = self.predictor.trained_task, self.predictor.cut
        request = self.job.request
        tally = Tally(task, "", skips=request.source.config.on_error == "skip")
        types = output_types(column_types(rows))
        if self.job.columns is not None:
            schema = pa.parquet.read_schema(self.job.columns)
            types = dict(zip(schema.names, schema.types, strict=True))
        kept = []
        for window in split_into_windows(map(number_row, numbers, rows)):
            results = predict_valid(self.predictor, window, request.batch_size)
            kept.append(tally.count(list(zip(window, results, strict=True))))
        path, names = parts.path_of(number), self.job.names
        if not tally.written:
            pa.parquet.write_table(pa.schema(types).empty_table(), path)
        else:
            with open_writer(path, types) as write:
                table = PredictionTable(write, lambda _: None, names)
                for some in kept:
                    table(*some)
                table.finish()
            names = table.names
        return BlockFacts(
            tally.rows,
            tally.written,
            tally.predicted,
            self.predictor.cut - truncated,
            names,
            dict(tally.faults.count_kinds()),
            dict(tally.caveats),
        )


@dataclass(frozen=True)
class EmbedJob(BlockJob):
    """Vectors of rows by a network."""

    request: RowsRequest

    def find_network(self, blocks: RowBlocks, notes: list[str]) -> tuple[Task, TransferModel]:
        """Load the network and the task; also add notes on how they read the rows."""
        request = self.request
        return find_network(
            request.model,
            blocks.head(),
            request.source.options,
            notes,
            trust_code=request.trust_code,
        )[:2]

    def open(self, blocks: RowBlocks) -> BlockWorker:
        request = self.request
        task, network = self.find_network(blocks, [])
        precision, _ = choose_precision(request.precision, best_device())
        accelerator = make_accelerator(precision)
        network = network.to(accelerator.device).eval()
        size, model = request.batch_size, request.model
        embedder = RowEmbedder(task, network, accelerator, size, model, precision)
        return _BlockEmbedder(self, embedder)


class _BlockEmbedder(BlockWorker):
    def __init__(self, job: EmbedJob, embedder: RowEmbedder) -> None:
        self.job = job
        self.embedder = embedder

    def write(
        self, number: int, rows: Dataset, numbers: Sequence[int], parts: PartFiles
    ) -> BlockFacts:
        truncated, places, vectors = self.embedder.cut, list[int](), []
        inputs = EmbeddingInputs(rows, numbers, self.job.request.source)
        for window in range(-(-len(rows) // WINDOW)):
            valid_places, valid_rows = inputs.valid(self.embedder.task, window)
            places += valid_places
            vectors += [self.embedder(valid_rows)] if valid_rows else []
        whole = np.concatenate(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)
        parts.write(number, places, whole, "")
        return BlockFacts(len(rows), len(places), len(places), self.embedder.cut - truncated)


class BlockActor:
    """Actor of Ray Data: works on the blocks whose numbers it is called with, one at a time."""

    def __init__(
        self, workplace: Workplace, job: BlockJob, blocks: RowBlocks, parts: PartFiles
    ) -> None:
        self._workplace = workplace
        self._job = job
        self._blocks = blocks
        self._parts = parts
        self._worker: BlockWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write the part of a block; return its number of rows, or a fault of the user or of ours.

        A fault is no exception here: Ray Data would take it for one of the machine.
        """
        rows, fault, is_bug = 0, "", False
        try:
            rows = self._write(int(batch["block"][0]))
        except FinetuneError as error:
            fault = str(error)
        except Exception:  # reported by the command, which has the user's terminal
            fault, is_bug = traceback.format_exc(), True
        return {"rows": [rows], "fault": [fault], "is_bug": [is_bug]}

    def _write(self, number: int) -> int:
        if self._worker is None:
            self._workplace.enter()
            self._worker = self._job.open(self._blocks)
        rows, numbers = self._blocks.read(number)
        facts = self._worker.write(number, rows, numbers, self._parts)
        write_json(facts_path(self._parts.path_of(number)), asdict(facts))
        return facts.rows
