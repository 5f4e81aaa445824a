"""Maps of the rows in two dimensions: PCA, t-SNE, and UMAP where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from finetune.analysis.feature_space import draw_sample, nearest_points

# Rows that t-SNE and UMAP place themselves; the others go where their neighbors among these are.
MOST_PLACED = 10_000
_NEIGHBORS = 5


def project(points: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Project points [N, D] to maps {name: float32 [N, 2]}, each a function of the seed."""
    maps = {"tsne": place(_tsne, points, seed)}
    if find_spec("umap"):
        maps["umap"] = place(_umap, points, seed)
    flat = np.zeros((len(points), 2), dtype=np.float32)
    flat[:, : min(2, points.shape[1])] = points[:, :2]
    return maps | {"pca": flat}


def place(
    embed: Callable[[np.ndarray, int], np.ndarray],
    points: np.ndarray,
    seed: int,
    most: int = MOST_PLACED,
) -> np.ndarray:
    """Place a sample of the points by `embed`, and the others by their neighbors in the sample.

    The neighbors are weighted by their inverse distance.
    """
    sample = draw_sample(len(points), most, seed)
    # Rows that are all equal have no distances to scale: NaN.
    placed = np.nan_to_num(embed(points[sample], seed).astype(np.float32))
    if len(sample) == len(points):
        return placed
    indices, distances = nearest_points(points, points[sample], min(_NEIGHBORS, len(sample)))
    weights = 1 / np.maximum(distances, 1e-6)
    weights /= weights.sum(1, keepdims=True)
    coordinates: np.ndarray = (placed[indices] * weights[:, :, None]).sum(1).astype(np.float32)
    coordinates[sample] = placed
    return coordinates


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max((len(points) - 1) / 3, 1.0))
    tsne = TSNE(perplexity=perplexity, init=_plane(points, 1e-4), random_state=seed, n_jobs=1)
    placed: np.ndarray = tsne.fit_transform(points)
    return placed


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed turns off parallel code
        neighbors = min(15, len(points) - 1)
        start = _plane(points, 10.0)
        umap = UMAP(n_neighbors=neighbors, init=start, random_state=seed, n_jobs=1)
        placed: np.ndarray = umap.fit_transform(points)
    return placed


def _plane(points: np.ndarray, scale: float) -> np.ndarray:
    """Return the first two components, the first of them with this standard deviation."""
    start = np.zeros((len(points), 2), dtype=np.float32)
    start[:, : min(2, points.shape[1])] = points[:, :2]
    return start * (scale / max(float(start[:, 0].std()), 1e-12))
