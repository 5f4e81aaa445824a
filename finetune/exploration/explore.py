"""Exploration of rows without labels: features, the analyses of them, and a folder of results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from finetune.analysis.cluster_names import name_clusters
from finetune.analysis.clusters import cluster_rows, dense_clusters
from finetune.analysis.feature_space import principal_components, read_vectors
from finetune.analysis.outliers import near_duplicates, neighbors_of, outlier_scores
from finetune.analysis.projections import project
from finetune.analysis.requirements import check_analysis
from finetune.analysis.self_organizing_map import train_map
from finetune.audit.shown_rows import draw_thumbnails
from finetune.data.source import Source, make_embedding_source
from finetune.distributed.launch import this_process
from finetune.errors import ConfigError, DataError, format_count
from finetune.exploration.explore_folder import Exploration, write_exploration
from finetune.exploration.explored_rows import describe_rows
from finetune.exploration.thumbnails import choose_typical
from finetune.inference.embedding import (
    EmbeddingInputs,
    RowEmbedder,
    has_vectors,
    open_embedding,
    write_vectors,
)
from finetune.inference.predictor import input_columns
from finetune.io.table_writer import prepare_folder
from finetune.reporting.console import Console
from finetune.task_parts.samples import take_rows

FEATURES = "features.parquet"
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
    source, task_keys = make_embedding_source(data, keys, "call")
    return explore_rows(
        os.fspath(model),
        source,
        task_keys,
        Path(output),
        clusters=clusters,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        trust_code=trust_code,
    )


def explore_rows(
    model: str,
    source: Source,
    keys: Mapping[str, Any],
    folder: Path,
    *,
    clusters: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
) -> Exploration:
    """Explore the rows of `source`; every figure is a function of rows, network and seed."""
    check_analysis("explore")
    if this_process().num_processes > 1:
        raise ConfigError("explore: runs in one process; start it without a launcher")
    console = Console()
    prepare_folder(folder)
    embedder, inputs = open_embedding(
        model, source, keys, batch_size, precision, console, trust_code=trust_code
    )
    if has_vectors(embedder, inputs, folder / FEATURES, console):
        console.print(f"vectors of {folder / FEATURES} reused: the rows and the network are equal")
    else:
        write_vectors(embedder, inputs, folder / FEATURES, console)
    title = f"{source.name} by {model}"
    with tempfile.TemporaryDirectory(prefix=".vectors-", dir=folder) as scratch:
        places, vectors = read_vectors(folder / FEATURES, Path(scratch) / "unit.npy")
        if len(places) < _FEWEST:
            raise DataError(
                f"{source.name}: {format_count(len(places), 'row')}, too few; explore at least 4"
            )
        found = _analyze(embedder, inputs, places, vectors, clusters, seed, console, title, keys)
        del vectors  # Windows removes no file that is mapped
    write_exploration(found, folder, console)
    return found


def _analyze(
    embedder: RowEmbedder,
    inputs: EmbeddingInputs,
    places: np.ndarray,
    vectors: np.ndarray,
    count: int | None,
    seed: int,
    console: Console,
    title: str,
    keys: Mapping[str, Any],
) -> Exploration:
    task = embedder.task
    indices = inputs.indices_of(places.tolist())
    rows = describe_rows(task, inputs.table.select(indices), must_have_labels="label" in keys)
    with console.during("principal components"):
        components = principal_components(vectors)
    points = components.points
    with console.during("clusters"):
        means = cluster_rows(points, count, seed)
        dense = dense_clusters(points, seed)
    with console.during("self-organizing map"):
        trained = train_map(points)
    with console.during("neighbors"):
        neighbors, distances = neighbors_of(points)
    with console.during("drawing maps"):
        maps = project(points, seed)
    typical = choose_typical(points, means.of_rows, means.centers)
    wanted = sorted(
        {*range(min(len(rows.texts), _ROWS_WITH_PICTURES)), *chain.from_iterable(typical)}
    )
    with console.during("drawing pictures"):
        table = take_rows(inputs.table, [indices[index] for index in wanted])
        shown = draw_thumbnails(task, [input_columns(row, task) for row in table])
    thumbnails = dict(zip(wanted, shown, strict=True)) if shown else {}
    words = [""] * len(means.centers)
    if not thumbnails:
        words = name_clusters(rows.texts, means.of_rows)
    return Exploration(
        title=title,
        seed=seed,
        rows=places,
        described=rows,
        explained=float(components.explained.sum()),
        components=points.shape[1],
        maps=maps,
        clusters=means,
        names=[f"{number} {text}".strip() for number, text in enumerate(words)],
        dense=dense,
        trained_map=trained,
        outliers=outlier_scores(neighbors, distances),
        duplicate_of=near_duplicates(vectors, neighbors, seed),
        thumbnails=thumbnails,
        typical=typical,
    )
