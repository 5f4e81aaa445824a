"""Exploration of rows without labels: features, the analyses of them, and a folder of results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from finetune.analysis.cluster_names import name_clusters
from finetune.analysis.feature_space import read_vectors
from finetune.analysis.requirements import check_analysis
from finetune.audit.shown_rows import draw_thumbnails
from finetune.data.source import RowsRequest, make_embedding_source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError, DataError, format_count
from finetune.exploration.explore_folder import Exploration, write_exploration
from finetune.exploration.explored_rows import describe_rows, find_labels
from finetune.exploration.result_folder import FEATURES, check_folder
from finetune.exploration.row_analysis import analyze
from finetune.exploration.thumbnails import choose_typical
from finetune.inference.embedding import has_vectors, open_embedding, write_vectors
from finetune.inference.predictor import input_columns
from finetune.io.table_writer import preparing_folder
from finetune.reporting.console import Console
from finetune.task import Task
from finetune.task_parts.samples import take_rows

_FEWEST = 4  # rows
_ROWS_WITH_PICTURES = 3_000  # on the page; more would make it slow to open


def explore(
    data: Any,
    model: str | os.PathLike[str],
    output: str | Path,
    *,
    clusters: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> Exploration:
    """Explore the rows of `data` by the features of `model`; write tables and maps to `output`.

    `model` is a pretrained network or a fine-tuned run, `data` anything that `finetune.train`
    takes. `clusters` sets their number, by default the one of the best silhouette. `keys` set how
    the data is read or keys of the task, as for `embed`. Raises FinetuneError.
    """
    source = make_embedding_source(data, keys, "call")
    request = RowsRequest(os.fspath(model), source, batch_size, precision, trust_code)
    return explore_rows(request, Path(output), clusters, seed)


def explore_rows(
    request: RowsRequest, folder: Path, clusters: int | None, seed: int
) -> Exploration:
    """Explore rows; every figure is a function of rows, network and seed."""
    check_analysis("explore")
    if this_process().num_processes > 1:
        raise ConfigError("explore: runs in one process; start it without a launcher")
    console, source = Console(), request.source
    check_folder(folder)
    with preparing_folder(folder):
        embedder, inputs = open_embedding(request, console)
        task = embedder.task
        _check_count(len(inputs.table), source.name)  # before the vectors, which take minutes
        labeled = find_labels(task, inputs.table, required="label" in source.options)
    if has_vectors(embedder, inputs, folder / FEATURES, console):
        console.print(f"vectors of {folder / FEATURES} reused: the rows and the network are equal")
    else:
        write_vectors(embedder, inputs, folder / FEATURES, console)
    with tempfile.TemporaryDirectory(prefix=".vectors-", dir=folder) as scratch:
        places, vectors = read_vectors(folder / FEATURES, Path(scratch) / "unit.npy")
        _check_count(len(places), source.name)
        found = analyze(vectors, clusters, seed, console)
        del vectors  # Windows removes no file that is mapped
    rows = inputs.table.select(inputs.indices_of(places.tolist()))
    described = describe_rows(task, rows, labeled)
    means = found.clusters
    if clusters is not None and len(means.centers) < clusters:
        different = format_count(len(means.centers), "different row")
        console.print(f"--clusters {clusters}: no more than {different}, a cluster each")
    typical = choose_typical(found.points, means.of_rows, means.centers)
    with console.during("drawing pictures"):
        thumbnails = _draw(task, rows, typical)
    words = [""] * len(means.centers)
    if not thumbnails:
        words = name_clusters(described.texts, means.of_rows)
    explored = Exploration(
        title=f"{source.name} by {request.model}",
        seed=seed,
        rows=places,
        described=described,
        analysis=found,
        names=[f"{number} {text}".strip() for number, text in enumerate(words)],
        thumbnails=thumbnails,
        typical=typical,
    )
    write_exploration(explored, folder, console)
    return explored


def _check_count(rows: int, name: str) -> None:
    if rows < _FEWEST:
        raise DataError(f"{name}: {format_count(rows, 'row')}, too few; explore at least {_FEWEST}")


def _draw(task: Task, rows: Dataset, typical: Sequence[Sequence[int]]) -> dict[int, Image.Image]:
    """Draw pictures of the first rows and of typical ones, by index; {} for rows without any."""
    first = range(min(len(rows), _ROWS_WITH_PICTURES))
    wanted = sorted({*first, *chain.from_iterable(typical)})
    shown = draw_thumbnails(task, [input_columns(row, task) for row in take_rows(rows, wanted)])
    return dict(zip(wanted, shown, strict=True)) if shown else {}
