"""All analyses of the vectors of an exploration: functions of the vectors and a seed.

Shapes: N rows, H features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune.analysis.clusters import KMeansClusters, cluster_rows, dense_clusters
from finetune.analysis.feature_space import principal_components
from finetune.analysis.outliers import near_duplicates, neighbors_of, outlier_scores
from finetune.analysis.projections import project
from finetune.analysis.self_organizing_map import SelfOrganizingMap, train_map
from finetune.reporting.console import Console


@dataclass(frozen=True)
class RowAnalysis:
    """What the vectors say about the rows.

    Attributes:
        points: the principal components of the rows, which explain the share `explained`, [N, D].
        maps: {name: float32 [N, 2]}.
        dense: HDBSCAN's cluster of each row, -1 for noise.
        duplicate_of: index of the first row of a group of near duplicates, -1 for other rows.
    """

    points: np.ndarray
    explained: float
    maps: Mapping[str, np.ndarray]
    clusters: KMeansClusters
    dense: np.ndarray
    trained_map: SelfOrganizingMap
    outliers: np.ndarray
    duplicate_of: np.ndarray


def analyze(vectors: np.ndarray, count: int | None, seed: int, console: Console) -> RowAnalysis:
    """Analyze vectors [N, H] of length 1; `count` is the number of clusters, None to choose it."""
    with console.during("principal components"):
        components = principal_components(vectors)
    points = components.points
    with console.during("clusters"):
        clusters = cluster_rows(points, count, seed)
        dense = dense_clusters(points, seed)
    with console.during("self-organizing map"):
        trained = train_map(points)
    with console.during("neighbors"):
        neighbors, distances = neighbors_of(points)
        duplicate_of = near_duplicates(vectors, neighbors, seed)
    with console.during("drawing maps"):
        maps = project(points, seed)
    return RowAnalysis(
        points=points,
        explained=float(components.explained.sum()),
        maps=maps,
        clusters=clusters,
        dense=dense,
        trained_map=trained,
        outliers=outlier_scores(neighbors, distances),
        duplicate_of=duplicate_of,
    )
