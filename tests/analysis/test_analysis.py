"""Components, neighbors, clusters, outliers and near duplicates of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.analysis import clusters as clusters_module
from finetune.analysis import feature_space
from finetune.analysis.cluster_names import name_clusters
from finetune.analysis.clusters import agreement, cluster_rows, dense_clusters
from finetune.analysis.feature_space import nearest_points, principal_components, read_vectors
from finetune.analysis.outliers import near_duplicates, neighbors_of, outlier_scores
from finetune.analysis.projections import place


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.repeat(range(4), [60, 50, 40, 30])


@pytest.fixture(scope="module")
def vectors(truth: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in four groups."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (4, 16))[truth] + rng.normal(0, 0.4, (len(truth), 16))
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled.astype(np.float32)


def test_principal_components_are_those_of_scikit_learn(vectors: np.ndarray) -> None:
    from sklearn.decomposition import PCA

    oracle = PCA(5).fit(vectors)
    found = principal_components(vectors, 5)
    assert np.allclose(np.abs(found.points), np.abs(oracle.transform(vectors)), atol=1e-4)
    assert np.allclose(found.explained, oracle.explained_variance_ratio_, atol=1e-5)


def test_read_vectors_scales_them_to_length_1(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    vectors[7] = 0
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3)
    pq.write_table(pa.table({"row": range(10, 5010), "vector": column}), tmp_path / "v.parquet")
    rows, unit = read_vectors(tmp_path / "v.parquet", tmp_path / "unit.npy")
    assert rows.tolist() == list(range(10, 5010))
    assert np.allclose(
        np.delete(unit, 7, 0),
        np.delete(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9), 7, 0),
        atol=1e-6,
    )
    assert not unit[7].any()


def test_nearest_points_are_found_in_blocks_of_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    monkeypatch.setattr(feature_space, "PAIRS", 7 * 50 + 3)
    indices, distances = nearest_points(points, points, 3, among_themselves=True)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (indices == apart.argsort(1)[:, :3]).all()
    assert np.allclose(distances, np.sort(apart, 1)[:, :3], atol=1e-5)
    monkeypatch.setattr(feature_space, "PAIRS", 1)  # less than one row
    assert (nearest_points(points, points, 3, among_themselves=True)[0] == indices).all()


def test_nearest_points_leaves_out_the_row_itself_but_not_its_copy() -> None:
    points = np.array([[0, 0], [0, 0], [1, 0], [5, 0]], dtype=np.float32)
    indices, distances = nearest_points(points, points, 1, among_themselves=True)
    assert indices[:, 0].tolist() == [1, 0, 0, 2] or indices[:, 0].tolist() == [1, 0, 1, 2]
    assert distances[:, 0].tolist() == [0, 0, 1, 4]


def test_cluster_rows_chooses_the_number_of_groups(
    vectors: np.ndarray, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = principal_components(vectors).points
    found = cluster_rows(points, None, 0)
    assert len(found.centers) == 4
    assert agreement(truth.astype(str).tolist(), found.of_rows) == {"nmi": 1, "ari": 1, "purity": 1}
    assert found.of_rows.tolist() == truth.tolist()  # numbered from the largest on
    again = cluster_rows(points, None, 0)
    assert np.array_equal(found.of_rows, again.of_rows)
    assert found.silhouettes == again.silhouettes
    assert len(cluster_rows(points, 7, 0).centers) == 7
    assert set(dense_clusters(points, 0)) >= {0, 1, 2, 3}
    monkeypatch.setattr(clusters_module, "MOST_AT_ONCE", 50)
    monkeypatch.setattr(clusters_module, "_DENSE_ROWS", 120)
    few = cluster_rows(points, 4, 0)
    assert agreement(truth.astype(str).tolist(), few.of_rows)["purity"] > 0.95
    assert len(dense_clusters(points, 0)) == len(points)


def test_cluster_rows_of_equal_points_are_one_cluster() -> None:
    points = np.ones((6, 2), dtype=np.float32)
    assert cluster_rows(points, None, 0).of_rows.tolist() == [0] * 6
    assert cluster_rows(points, 3, 0).of_rows.tolist() == [0] * 6


def test_place_puts_rows_outside_of_the_sample_beside_their_neighbors(
    vectors: np.ndarray, truth: np.ndarray
) -> None:
    points = principal_components(vectors).points
    coordinates = place(lambda some, seed: some[:, :2], points, 0, most=80)
    centers = np.array([points[truth == n, :2].mean(0) for n in range(4)])
    assert np.linalg.norm(coordinates - centers[truth], axis=1).mean() < 0.4


def test_outliers_and_near_duplicates_are_found(vectors: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    far = rng.normal(0, 1, (1, 16))
    copies = vectors[[3, 3, 100]] + rng.normal(0, 1e-3, (3, 16))
    rows = np.concatenate([vectors, far / np.linalg.norm(far), copies]).astype(np.float32)
    neighbors, distances = neighbors_of(principal_components(rows).points)
    scores = outlier_scores(neighbors, distances)
    assert scores.argmax() == len(vectors)
    assert scores.max() > 1.5 * np.median(scores)
    duplicates = near_duplicates(rows, neighbors, 0)
    assert duplicates[-3:].tolist() == [3, 3, 100]
    assert (duplicates >= 0).sum() == 3


def test_name_clusters_takes_words_that_set_a_cluster_apart() -> None:
    texts = ["the goal of the team", "a team and a goal", "shares of the bank", "the bank's profit"]
    names = name_clusters(texts, np.array([0, 0, 1, 1]), words=2)
    assert names[0] == "goal, team"
    assert names[1].startswith("bank")
    assert name_clusters(["1 2", "3"], np.array([0, 1])) == ["", ""]
