"""The self-organizing map, compared with minisom."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.analysis.feature_space import principal_components
from finetune.analysis.self_organizing_map import train_map, unit_distances


def blobs(rows: int = 400, clusters: int = 5, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 4, (clusters, width))
    return centers[np.arange(rows) % clusters] + rng.normal(0, 0.5, (rows, width))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return principal_components(blobs().astype(np.float32)).points


def test_train_map_has_the_errors_that_minisom_computes(points: np.ndarray) -> None:
    minisom = pytest.importorskip("minisom")
    trained = train_map(points)
    oracle = minisom.MiniSom(*trained.units.shape)
    oracle._weights = trained.units.astype(np.float64)
    assert trained.quantization_error == pytest.approx(oracle.quantization_error(points), rel=1e-5)
    assert trained.topographic_error == pytest.approx(oracle.topographic_error(points), abs=0.01)
    assert [tuple(cell) for cell in trained.cells[:20]] == [
        tuple(map(int, oracle.winner(point))) for point in points[:20]
    ]
    assert np.allclose(unit_distances(trained.units), _mean_distances(trained.units), atol=1e-5)


def test_train_map_is_as_good_as_that_of_minisom(points: np.ndarray) -> None:
    minisom = pytest.importorskip("minisom")
    trained = train_map(points)
    other = minisom.MiniSom(*trained.units.shape, sigma=2, random_seed=0)
    other.pca_weights_init(points)
    other.train_batch(points, 4000)
    assert trained.quantization_error < 1.05 * other.quantization_error(points)
    assert trained.topographic_error <= other.topographic_error(points) + 0.05


def test_train_map_repeats_to_the_bit_and_takes_few_points(points: np.ndarray) -> None:
    assert np.array_equal(train_map(points).units, train_map(points).units)
    tiny = train_map(points[:4])
    assert np.isfinite(tiny.units).all()
    equal = train_map(np.ones((5, 1), dtype=np.float32))
    assert equal.quantization_error == 0


def _mean_distances(units: np.ndarray) -> np.ndarray:
    rows, columns, _ = units.shape
    means = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            around = [
                np.linalg.norm(units[row, column] - units[r, c])
                for r in range(max(row - 1, 0), min(row + 2, rows))
                for c in range(max(column - 1, 0), min(column + 2, columns))
                if (r, c) != (row, column)
            ]
            means[row, column] = np.mean(around)
    return means
