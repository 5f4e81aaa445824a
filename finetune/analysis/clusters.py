"""Clusters of the rows, by k-means and HDBSCAN, and their agreement with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.analysis.feature_space import draw_sample, nearest_points

MOST_CLUSTERS = 20
# More rows are clustered in mini-batches; silhouettes and HDBSCAN take a sample.
MOST_AT_ONCE = 20_000
_SILHOUETTE_ROWS = 3_000
_DENSE_ROWS = 10_000
_DENSE_COMPONENTS = 5  # in more dimensions, nearly all rows count as noise


@dataclass(frozen=True)
class KMeansClusters:
    """Clusters by k-means, numbered from the largest one on.

    Attributes:
        of_rows: the cluster of each row, int64 [N].
        centers: float32 [K, D].
        silhouettes: the mean silhouette of each number of clusters that was tried.
    """

    of_rows: np.ndarray
    centers: np.ndarray
    silhouettes: dict[int, float]


def cluster_rows(points: np.ndarray, count: int | None, seed: int) -> KMeansClusters:
    """Cluster points [N, D] by k-means; without `count`, take the one of the best silhouette.

    There are at most as many clusters as different points.

    Silhouettes are of the angles between centered vectors, on a sample of the rows.
    """
    from sklearn.metrics import silhouette_score

    distinct = len(np.unique(points, axis=0))
    most = min(MOST_CLUSTERS, distinct - 1)
    counts = [min(count, distinct)] if count else list(range(2, most + 1))
    sample = draw_sample(len(points), _SILHOUETTE_ROWS, seed)
    silhouettes: dict[int, float] = {}
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for each in counts:
        labels, centers = k_means(points, each, seed)
        found = len(np.unique(labels[sample]))
        score = -1.0
        if 1 < found < len(sample):  # else undefined
            score = float(silhouette_score(points[sample], labels[sample], metric="cosine"))
            silhouettes[each] = score
        if best is None or score > best[0]:
            best = score, labels, centers
    if best is None:  # too few different rows to divide
        return KMeansClusters(np.zeros(len(points), dtype=np.int64), points[:1], {})
    _, labels, centers = best
    order = np.argsort(-np.bincount(labels, minlength=len(centers)), kind="stable")
    return KMeansClusters(np.argsort(order)[labels], centers[order], silhouettes)


def k_means(
    points: np.ndarray, count: int, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each point [N, D] and the centers [K, D]; `weights` [N] are theirs."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(points) > MOST_AT_ONCE:
        means = MiniBatchKMeans(count, n_init=5, batch_size=4096, random_state=seed)
    else:
        means = KMeans(count, n_init=5, random_state=seed)
    labels: np.ndarray = means.fit_predict(points, sample_weight=weights)
    return labels.astype(np.int64), means.cluster_centers_.astype(np.float32)


def dense_clusters(points: np.ndarray, seed: int) -> np.ndarray:
    """Cluster points [N, D] by density with HDBSCAN; return int64 [N], -1 for noise.

    Rows outside of a sample have the cluster of the nearest row in it.
    """
    from sklearn.cluster import HDBSCAN

    few = np.ascontiguousarray(points[:, :_DENSE_COMPONENTS])
    sample = draw_sample(len(points), _DENSE_ROWS, seed)
    smallest = max(5, len(sample) // 100)
    if len(sample) < 2 * smallest:
        return np.full(len(points), -1, dtype=np.int64)
    found = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(few[sample])
    if len(sample) < len(points):
        found = found[nearest_points(few, few[sample], 1)[0][:, 0]]
    return np.asarray(found, dtype=np.int64)


def agreement(labels: Sequence[str], clusters: np.ndarray) -> dict[str, float]:
    """Compare clusters with labels: NMI, ARI, and purity, the share of the clusters' majorities."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, clusters)  # [classes, clusters]
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "purity": float(table.max(0).sum() / table.sum()),
    }
