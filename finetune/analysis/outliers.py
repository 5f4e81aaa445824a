"""Rows that are far from all others, and rows that are nearly equal."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune.analysis.feature_space import nearest_points

NEIGHBORS = 10
# Near duplicates are closer than this share of the distance between two random rows.
NEAR = 0.15
_PAIRS = 10_000


def neighbors_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of each point's neighbors and their distances, both [N, K]."""
    return nearest_points(points, points, min(NEIGHBORS, len(points) - 1), among_themselves=True)


def outlier_scores(neighbors: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the distance of each point to its neighbors in relation to theirs, float32 [N].

    About 1 amid others, more far from them: the local outlier factor with mean distances.
    """
    if not neighbors.shape[1]:
        return np.ones(len(neighbors), dtype=np.float32)
    own = distances.mean(1)
    usual = np.median(own)
    scores: np.ndarray = (own + usual / 10) / (own[neighbors].mean(1) + usual / 10 + 1e-12)
    return scores.astype(np.float32)


def near_duplicates(vectors: np.ndarray, neighbors: np.ndarray, seed: int) -> np.ndarray:
    """Return the first row of each row's group of near duplicates, int64 [N], or -1.

    Of `vectors` [N, H] only those of neighbors are compared, and two groups with a row in common
    are one. The first row of a group is not a duplicate.
    """
    rows = len(vectors)
    pairs = np.random.default_rng(seed).integers(0, rows, (_PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        return np.full(rows, -1, dtype=np.int64)
    limit = NEAR * np.median(np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1))
    starts, ends = [], []
    for column in neighbors.T:  # one neighbor of every row
        for start in range(0, rows, _PAIRS):
            stop = min(start + _PAIRS, rows)
            gaps = np.linalg.norm(vectors[start:stop] - vectors[column[start:stop]], axis=1)
            (close,) = np.nonzero(gaps <= limit)
            starts.append(close + start)
            ends.append(column[close + start])
    first, second = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(rows, rows))
    groups = connected_components(graph, directed=False)[1]
    heads = np.full(groups.max() + 1, rows)
    np.minimum.at(heads, groups, np.arange(rows))
    return np.where(heads[groups] < np.arange(rows), heads[groups], -1)
