"""Criteria by which rows are chosen to be labeled.

Written here since each is a few lines on scikit-learn's k-means; modAL, scikit-activeml and
small-text wrap the classifier itself, which here is the fine-tuned network.

Shapes: N rows of the pool, M rows that have labels, D components, C labels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.clusters import k_means
from finetune.analysis.feature_space import nearest_points
from finetune.analysis.outliers import neighbors_of, outlier_scores

Indices = NDArray[np.int64]
Criterion = Literal["both", "uncertainty", "diversity", "typicality"]
# Per row to choose, as many of the most uncertain ones are candidates of "both".
_CANDIDATES = 40
# Rows of the highest outlier scores are not chosen: many are damaged, or of no class.
_OUTLIERS = 0.05


def choose_rows(
    points: np.ndarray,
    labeled: np.ndarray,
    uncertainty: np.ndarray | None,
    count: int,
    criterion: Criterion,
    seed: int,
) -> Indices:
    """Choose rows to label; return their indices, the most useful first.

    `points` [N, D] are those of the rows, `labeled` [M, D] of rows that have labels, `uncertainty`
    [N] that of predictions: needed by "both" and "uncertainty".
    """
    allowed = _without_outliers(points, count)
    if count >= len(allowed):
        return allowed
    if criterion == "typicality":
        return allowed[_typical(points[allowed], labeled, count, seed)]
    if criterion == "diversity":
        return allowed[k_centers(points[allowed], labeled, count)]
    assert uncertainty is not None
    order = allowed[np.argsort(-uncertainty[allowed], kind="stable")]
    if criterion == "uncertainty":
        return order[:count]
    candidates = order[: max(count, min(_CANDIDATES * count, len(order) // 2))]
    return candidates[_centers_by_weight(points[candidates], uncertainty[candidates], count, seed)]


def label_uncertainty(scores: np.ndarray, *, exclusive: bool) -> np.ndarray:
    """Return the uncertainty of probabilities [N, C], from 0 to 1.

    Of exclusive labels: 1 - (highest - second highest), the margin; of others: that of the label
    that is nearest to 0.5.
    """
    if not exclusive:
        return np.asarray(1 - np.abs(2 * scores - 1).min(1))
    ordered = np.sort(scores, axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def k_centers(points: np.ndarray, labeled: np.ndarray, count: int) -> Indices:
    """Choose points greedily, each the farthest from labeled and chosen ones (arXiv:1708.00489).

    Without labeled points, the first one is the nearest to the mean. Returns indices, at most
    `count`, of distinct points.
    """
    if len(labeled):
        distances, chosen = nearest_points(points, labeled, 1)[1][:, 0], list[int]()
    else:
        chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
        distances = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)) and distances.max() > 0:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def _centers_by_weight(points: np.ndarray, weights: np.ndarray, count: int, seed: int) -> Indices:
    """Choose the points nearest to weighted k-means centers (Zhdanov 2019, arXiv:1901.05954)."""
    if count == len(points):
        return np.arange(count)
    clusters, centers = k_means(points, count, seed, np.maximum(weights, 1e-9))
    chosen = _nearest_to_centers(points, clusters, centers, range(len(centers)))
    return chosen[np.argsort(-weights[chosen], kind="stable")]


def _typical(points: np.ndarray, labeled: np.ndarray, count: int, seed: int) -> Indices:
    """Choose the center of each of the largest clusters without a labeled row.

    As many clusters as there will be labeled rows (TypiClust, Hacohen et al. 2022,
    arXiv:2202.02794).
    """
    every = np.concatenate([points, labeled]).astype(points.dtype)
    clusters, centers = k_means(every, min(len(labeled) + count, len(every)), seed)
    sizes = np.bincount(clusters[: len(points)], minlength=len(centers))
    sizes[clusters[len(points) :]] = 0
    largest = np.argsort(-sizes, kind="stable")[:count]
    largest = largest[sizes[largest] > 0]
    return _nearest_to_centers(points, clusters[: len(points)], centers, largest)


def _nearest_to_centers(
    points: np.ndarray, clusters: np.ndarray, centers: np.ndarray, wanted: Indices | range
) -> Indices:
    """Return the index of the point of each wanted cluster that is nearest to its center."""
    distances = np.linalg.norm(points - centers[clusters], axis=1)
    members = [np.nonzero(clusters == cluster)[0] for cluster in wanted]
    return np.array([own[distances[own].argmin()] for own in members if len(own)], dtype=np.int64)


def _without_outliers(points: np.ndarray, count: int) -> Indices:
    """Return the indices of the rows to choose from, if they are enough."""
    everything = np.arange(len(points))
    if len(points) <= 2 * count:
        return everything
    scores = outlier_scores(*neighbors_of(points))
    (allowed,) = np.nonzero(scores <= np.quantile(scores, 1 - _OUTLIERS))
    return allowed
