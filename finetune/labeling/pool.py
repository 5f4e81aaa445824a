"""The rows of a pool: their vectors and predictions, and those that have a label already."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from finetune.batching.data_loader import map_by_length
from finetune.config.loading import load_config
from finetune.config.yaml import read_yaml
from finetune.data.opening import open_splits
from finetune.data.selection import has_value
from finetune.distributed.devices import to_device
from finetune.errors import DataError, FinetuneError
from finetune.inference.embedding import EmbeddingInputs, RowEmbedder
from finetune.inference.model_loading import computing
from finetune.inference.predictor import WINDOW, input_columns
from finetune.inference.stored_code import check_stored_config
from finetune.io.run_folder import RunFolder
from finetune.labeling.criteria import label_uncertainty
from finetune.model import Batch
from finetune.registry import INSTALLED, make_task
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Row, take_rows

_SCORE = "score/"
Computed = tuple[torch.Tensor, Prediction]


@dataclass(frozen=True)
class Pool:
    """The valid rows of a pool; N rows, H features.

    Attributes:
        table: all columns of the rows.
        numbers: number of each row in its table, from 1.
        vectors: float32 [N, H], of length 1.
        predictions: of the rows, with the probability of every label; empty without a trained head.
        is_known: True where a row need not be labeled: it has a label, or the run was trained on
            it, or it equals an earlier row; bool [N].
    """

    table: Dataset
    numbers: Sequence[int]
    vectors: np.ndarray
    predictions: list[Prediction]
    is_known: np.ndarray

    @property
    def uncertainty(self) -> np.ndarray | None:
        """Uncertainty of the predictions [N]; None if they have no probabilities of labels."""
        first = self.predictions[0] if self.predictions else {}
        names = [name for name in first if name.startswith(_SCORE)]
        if not names:
            return None
        scores = np.array([[each[name] for name in names] for each in self.predictions])
        return label_uncertainty(scores, exclusive=not isinstance(first["label"], list))


def read_pool(
    embedder: RowEmbedder,
    inputs: EmbeddingInputs,
    trained_on: set[Hashable],
    console: Console,
    *,
    predicts: bool,
) -> Pool:
    """Compute the vectors of the rows and, if wanted, their predictions.

    `trained_on` are the identities of the rows that the network learned from.
    """
    places: list[int] = []
    computed: list[Computed] = []
    is_known: list[bool] = []
    seen = set(trained_on)
    with console.count(len(inputs.table), "rows") as advance:
        for window in range(-(-len(inputs.table) // WINDOW)):
            found, rows = inputs.valid(embedder.task, window)
            computed += _compute(embedder, rows, predicts=predicts)
            for identity in map(embedder.task.rows.identity, rows):
                is_known.append(identity in seen)
                seen.add(identity)
            places += found
            advance(min(WINDOW, len(inputs.table)))
    if not computed:
        raise DataError(f"{inputs.source.name}: no valid rows; fix the rows")
    table = inputs.table.select(inputs.indices_of(places))
    vectors = torch.stack([vector for vector, _ in computed]).numpy()
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Pool(
        table,
        [place + 1 for place in places],
        vectors,
        [prediction for _, prediction in computed] if predicts else [],
        np.array(is_known) | _have_labels(table, embedder.task),
    )


def target_columns(task: Task) -> list[str]:
    """Return the columns of the label; a pretrained network does not know theirs yet."""
    return task.rows.targets or ["label"]


def identities_of(run: str, console: Console, *, trust_code: bool = False) -> set[Hashable]:
    """Return the identities of all rows that a run read, or none, with a note on why.

    Code that the config of the run names runs only with `trust_code`.
    """
    folder = RunFolder(Path(run))
    try:
        if not folder.has_config:
            raise DataError("this is no run folder with its config.yaml")
        file = folder.path / "config.yaml"
        check_stored_config(read_yaml(file), file, trust_code=trust_code)
        config = load_config(file, [], INSTALLED).config
        task = make_task(config.task)
        tables = open_splits(config.data, task).named.values()
    except FinetuneError as error:
        reason = str(error).splitlines()[0]
        console.print(f"rows that {run} was trained on may be suggested again: {reason}")
        return set()
    return {
        task.rows.identity(input_columns(row, task))
        for table in tables
        for start in range(0, len(table), WINDOW)
        for row in take_rows(table, range(start, min(start + WINDOW, len(table))))
    }


def _compute(embedder: RowEmbedder, rows: Sequence[Row], *, predicts: bool) -> list[Computed]:
    """Return the vector of each row, float32 [H], and its prediction, {} if none is wanted."""
    task, model = embedder.task, embedder.model

    def compute(batch: Batch) -> list[Computed]:
        with torch.inference_mode(), embedder.accelerator.autocast(), computing(embedder.place):
            features = model.features(to_device(batch["inputs"], embedder.accelerator.device))
            ((_, values),) = features.items()
            vectors = values.flatten(1).float().cpu()
            predictions = task.predict(model, {"features": features}) if predicts else []
        return list(zip(vectors, predictions or [{}] * len(vectors), strict=True))

    if not rows:
        return []
    return map_by_length(task, rows, task.lengths(rows), embedder.batch_size, compute)


def _have_labels(table: Dataset, task: Task) -> np.ndarray:
    """Return True for each row that has a value in a column of the label, bool [N]."""
    given = [name for name in target_columns(task) if name in table.column_names]
    if not given:
        return np.zeros(len(table), dtype=bool)
    return np.array([has_value(row, given) for row in table.select_columns(given)], dtype=bool)
