"""The space of all analyses: vectors of length 1, their principal components, and neighbors.

Shapes: N rows, H features, D principal components, K neighbors. What is larger than N x D is read
in blocks from a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch

COMPONENTS = 100
BLOCK = 2048  # rows that are read at once
PAIRS = 2**23  # of points that are compared at once: 32 MiB of distances
_SMALLEST = 1e-12


def read_vectors(features: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scale the vectors of a file of `embed` to length 1, into a memory-mapped file at `scratch`.

    Returns the rows' numbers from 0, int64 [N], and the vectors, float32 [N, H].
    """
    file = pyarrow.parquet.ParquetFile(features)
    width = file.schema_arrow.field("vector").type.list_size
    shape = file.metadata.num_rows, width
    vectors = np.lib.format.open_memmap(scratch, "w+", dtype=np.float32, shape=shape)
    rows, start = np.empty(shape[0], dtype=np.int64), 0
    for batch in file.iter_batches(BLOCK, columns=["row", "vector"]):
        block = batch.column("vector").flatten().to_numpy().reshape(-1, width)
        end = start + len(block)
        rows[start:end] = batch.column("row").to_numpy()
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        vectors[start:end] = block / np.maximum(lengths, _SMALLEST)
        start = end
    return rows, vectors


@dataclass(frozen=True)
class Components:
    """Principal components of the rows.

    Attributes:
        points: float32 [N, D], by falling variance.
        explained: share of the variance that each component explains, [D].
    """

    points: np.ndarray
    explained: np.ndarray


def principal_components(vectors: np.ndarray, most: int = COMPONENTS) -> Components:
    """Compute the exact principal components in two passes over blocks of rows."""
    rows, width = vectors.shape
    total, products = np.zeros(width), np.zeros((width, width))
    for block in _blocks(vectors):
        wide = block.astype(np.float64)
        total += wide.sum(0)
        products += wide.T @ wide
    mean = total / rows
    values, axes = np.linalg.eigh(products / rows - np.outer(mean, mean))
    kept = slice(-1, -1 - min(most, width, max(rows - 1, 1)), -1)
    values, axes = values[kept].clip(0), axes[:, kept]
    axes *= np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])  # one of two directions
    points = np.concatenate([(block - mean) @ axes for block in _blocks(vectors)])
    variance = max(np.trace(products) / rows - mean @ mean, _SMALLEST)
    return Components(points.astype(np.float32), values / variance)


def nearest_points(
    queries: np.ndarray, points: np.ndarray, count: int, *, among_themselves: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of `points` to each query; return indices and distances, both [N, K].

    With `among_themselves`, the queries are the points, and none is its own neighbor.
    """
    targets = torch.from_numpy(np.ascontiguousarray(points))
    # Made at once: small arrays that are kept between large ones that are freed fragment the heap,
    # which then grows by a block at every step.
    indices = np.empty((len(queries), count), dtype=np.int64)
    distances = np.empty((len(queries), count), dtype=np.float32)
    step = max(1, PAIRS // max(len(points), 1))
    for start in range(0, len(queries), step):
        block = torch.from_numpy(np.ascontiguousarray(queries[start : start + step]))
        between = torch.cdist(block, targets)  # [step, N]
        if among_themselves:
            between[range(len(block)), range(start, start + len(block))] = torch.inf
        values, places = between.topk(count, largest=False)
        indices[start : start + step], distances[start : start + step] = places, values
        del block, between, values, places
    return indices, distances


def draw_sample(rows: int, most: int, seed: int) -> np.ndarray:
    """Draw at most `most` of the rows without replacement; return their sorted indices."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK]
