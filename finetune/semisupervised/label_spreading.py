"""Label spreading (Zhou et al. 2004) by scikit-learn, on a sparse graph of nearest neighbors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from finetune.analysis.feature_space import nearest_points
from finetune.semisupervised.partly_labeled import Floats, PartlyLabeled

_NEIGHBORS = 20
_ALPHA = 0.99  # weight of the neighbors against the given labels
_SHARPNESS = 3  # power of the cosine


def spread_labels(data: PartlyLabeled, seed: int) -> Floats:
    """Return class probabilities of the unlabeled rows [N, C]; no part of it is random.

    Each class is scaled to the same total, since few labels of one class reach more rows than those
    of another.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.semi_supervised import LabelSpreading

    everything = np.concatenate([data.labeled, data.unlabeled])
    classes = np.concatenate([data.classes, np.full(len(data.unlabeled), -1)])
    spreading = LabelSpreading(kernel=_neighbor_graph, alpha=_ALPHA, max_iter=300, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Rows in a part of the graph without a label get no probability.
        warnings.filterwarnings("ignore", "invalid value", RuntimeWarning)
        spreading.fit(everything, classes)
    found = np.zeros((len(data.unlabeled), data.count))
    found[:, spreading.classes_] = np.nan_to_num(
        spreading.label_distributions_[len(data.labeled) :]
    )
    found /= np.maximum(found.sum(0), 1e-12)
    return np.asarray(found / np.maximum(found.sum(1, keepdims=True), 1e-12), dtype=np.float32)


def _neighbor_graph(points: np.ndarray, _: np.ndarray) -> Any:
    """Return the weights between each point and its nearest ones, sparse [N, N]."""
    from scipy.sparse import csr_array

    rows = len(points)
    count = min(_NEIGHBORS, rows - 1)
    narrow = points.astype(np.float32)
    neighbors, distances = nearest_points(narrow, narrow, count, among_themselves=True)
    cosines = np.maximum(1 - distances.astype(np.float64) ** 2 / 2, 0)
    # Not 0, so that no row is without neighbors.
    weights = np.maximum(cosines**_SHARPNESS, 1e-6).ravel()
    places = np.repeat(np.arange(rows), count), neighbors.ravel()
    graph = csr_array((weights, places), shape=(rows, rows))
    return graph.maximum(graph.T)
