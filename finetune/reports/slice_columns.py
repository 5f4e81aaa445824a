"""What divides rows into slices: columns of the data, and what is known of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from finetune.checks.text_checks import detect_languages
from finetune.errors import ConfigError, DataError, nearest
from finetune.inference.evaluate import Measured
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import take_rows
from finetune.task_parts.views import LabelScores

LANGUAGE = "language"
MOST_VALUES = 50
"""Number of values of a column up to which rows are divided by it."""
_CONFIDENT = (0.5, 0.8, 0.95)
_FEWEST_CLUSTERED, _ROWS_OF_CLUSTER, _MOST_CLUSTERS = 100, 50, 10


def check_column(key: str, name: str, rows: Dataset, task_rows: Rows) -> None:
    """Raise DataError or ConfigError for a column that could not divide rows."""
    if name == LANGUAGE and name not in rows.column_names and key == "report.slices":
        if not any(task_rows.texts(row) for row in take_rows(rows, range(min(len(rows), 1)))):
            raise ConfigError(f"{key}=[language]: the task reads no texts; leave language out")
        detect_languages([])  # raises if the library is missing
        return
    if name not in rows.column_names:
        raise DataError(f"{key}: no column {name!r}; {nearest(name, rows.column_names)}")
    count = len(set(map(str, rows[name])))
    if count > MOST_VALUES:
        raise DataError(
            f"{key}: column {name} has {count} values, more than {MOST_VALUES}; name a column with "
            "few values, such as the source of a row"
        )


def named_columns(measured: Measured, names: Sequence[str]) -> dict[str, list[str]]:
    """Return {column: value of each row} of columns that were checked."""
    known = measured.rows.column_names
    return {name: measured.cells(name) if name in known else _languages(measured) for name in names}


def automatic_columns(measured: Measured, seed: int = 0) -> dict[str, list[str]]:
    """Return what divides the rows of any split: label, length, confidence, folder, cluster."""
    return {
        name: values
        for name, values in _automatic(measured, seed)
        if 1 < len(set(values)) <= MOST_VALUES
    }


def _automatic(measured: Measured, seed: int) -> Iterator[tuple[str, list[str]]]:
    scores = measured.task.views.label_scores(measured.evaluation.stats)
    if scores is not None and scores.exclusive:
        yield "label", [scores.names[index] for index in scores.truth.argmax(1)]
    yield "length", _lengths(measured)
    if scores is not None and scores.exclusive:
        yield "confidence", _confidences(scores)
    if folders := _folders(measured):
        yield "folder", folders
    if clusters := _clusters(measured, seed):
        yield "cluster", clusters


def _lengths(measured: Measured) -> list[str]:
    """Return the quarter of the rows that each one belongs to by length."""
    lengths, unit = measured.split.lengths, measured.task.views.length_unit
    edges = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int))
    if len(edges) < 2:
        return [""] * len(lengths)
    places = np.searchsorted(edges[1:-1], lengths, side="left")
    starts = [edges[0], *(edges[1:-1] + 1)]
    names = [f"{first} to {last} {unit}" for first, last in zip(starts, edges[1:], strict=True)]
    return [names[place] for place in places]


def _confidences(scores: LabelScores) -> list[str]:
    """Return the range that the highest probability of each row is in."""
    edges = [0.0, *_CONFIDENT, 1.0]
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    places = np.searchsorted(_CONFIDENT, scores.scores.max(1), side="right")
    return [names[place] for place in places]


def _folders(measured: Measured) -> list[str]:
    """Return the folder of the file of each row; [] if the rows name no files."""
    for name in ("file", *measured.task.rows.inputs):
        if name in measured.rows.column_names:
            paths = [_path(cell) for cell in measured.values(name)]
            if all(path and "/" in path for path in paths):
                return [Path(str(path)).parent.name for path in paths]
    return []


def _path(cell: Any) -> str | None:
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    return cell.replace("\\", "/") if isinstance(cell, str) and len(cell) < 1000 else None


def _languages(measured: Measured) -> list[str]:
    rows = measured.task.rows
    texts = [
        "\n".join(map(str, rows.texts(row)))
        for row in take_rows(measured.split.rows, range(len(measured.split)))
    ]
    return [language or "unknown" for language in detect_languages(texts)]


def _clusters(measured: Measured, seed: int) -> list[str]:
    """Return the cluster of each row by its cached features, named by its words; [] without any."""
    split, count = measured.split, len(measured.split)
    if split.features is None or count < _FEWEST_CLUSTERED:
        return []
    cached = [each for each in split.features.take(range(count)).values() if each.ndim == 2]
    if len(cached) != 1:
        return []
    from finetune.analysis.cluster_names import name_clusters
    from finetune.analysis.clusters import cluster_rows

    vectors = torch.nn.functional.normalize(cached[0].float(), dim=1).cpu().numpy()
    wanted = min(_MOST_CLUSTERS, count // _ROWS_OF_CLUSTER)
    clusters = cluster_rows(vectors, wanted, seed).of_rows
    rows = take_rows(split.rows, range(count))
    texts = ["\n".join(map(str, measured.task.rows.texts(row))) for row in rows]
    names = [""] * (int(clusters.max()) + 1)
    if any(texts):
        names = name_clusters(texts, clusters)
    return [f"{cluster} {names[cluster]}".strip() for cluster in clusters]
