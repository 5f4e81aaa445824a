"""Criteria for the rows to label next, on points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.labeling.criteria import Criterion, choose_rows, k_centers, label_uncertainty

NONE = np.zeros((0, 2), dtype=np.float32)
MIDDLES = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])


def groups(sizes: tuple[int, ...] = (40, 30, 20, 10)) -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [MIDDLES[n] + 0.3 * rng.standard_normal((size, 2)) for n, size in enumerate(sizes)]
    return np.concatenate(parts).astype(np.float32)


def group_of(points: np.ndarray) -> list[int]:
    return np.linalg.norm(points[:, None] - MIDDLES, axis=2).argmin(1).tolist()


def test_uncertainty_of_exclusive_labels_is_the_margin_of_the_best_two() -> None:
    scores = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    assert label_uncertainty(scores, exclusive=True) == pytest.approx([1.0, 0.5])


def test_uncertainty_of_several_labels_is_that_of_the_least_certain_one() -> None:
    scores = np.array([[0.5, 1.0], [0.1, 0.9]])
    assert label_uncertainty(scores, exclusive=False) == pytest.approx([1.0, 0.2])


def test_typicality_takes_the_middle_of_the_largest_groups_first() -> None:
    points = groups()
    chosen = choose_rows(points, NONE, None, 4, "typicality", 0)
    assert group_of(points[chosen]) == [0, 1, 2, 3]
    assert (np.linalg.norm(points[chosen] - MIDDLES, axis=1) < 0.3).all()


def test_typicality_takes_no_group_that_has_a_labeled_row() -> None:
    points, labeled = groups(), np.array([[0, 0], [10, 0]], dtype=np.float32)
    chosen = choose_rows(points, labeled, None, 2, "typicality", 0)
    assert group_of(points[chosen]) == [2, 3]


def test_k_centers_covers_the_groups_that_labeled_rows_do_not() -> None:
    points = groups()
    assert sorted(group_of(points[k_centers(points, NONE, 4)])) == [0, 1, 2, 3]
    labeled = np.array([[0, 0], [10, 0]], dtype=np.float32)
    assert sorted(group_of(points[k_centers(points, labeled, 2)])) == [2, 3]


def test_k_centers_takes_no_point_twice() -> None:
    assert len(k_centers(np.zeros((5, 2), dtype=np.float32), NONE, 3)) == 1


def test_both_takes_uncertain_rows_that_differ() -> None:
    points = groups((50, 50, 50, 50))
    uncertainty = np.linspace(0.0, 0.2, 200)
    uncertainty[:20] = uncertainty[50:70] = 0.9  # of the first two groups
    chosen = choose_rows(points, NONE, uncertainty, 2, "both", 0)
    alike = choose_rows(points, NONE, uncertainty, 2, "uncertainty", 0)
    assert set(chosen) <= {*range(20), *range(50, 70)}
    assert sorted(group_of(points[chosen])) == [0, 1]
    assert set(alike) <= {*range(20), *range(50, 70)}


@pytest.mark.parametrize("criterion", ["both", "uncertainty", "diversity", "typicality"])
def test_every_criterion_leaves_out_outliers_and_repeats_its_choice(criterion: Criterion) -> None:
    points = np.concatenate([groups(), [[60.0, -40.0]]]).astype(np.float32)
    uncertainty = np.random.default_rng(1).random(101)
    uncertainty[100] = 1.0
    chosen = choose_rows(points, NONE, uncertainty, 6, criterion, 3)
    assert len(set(chosen)) == 6
    assert 100 not in chosen
    assert chosen.tolist() == choose_rows(points, NONE, uncertainty, 6, criterion, 3).tolist()


@pytest.mark.parametrize("criterion", ["both", "uncertainty", "diversity", "typicality"])
def test_every_criterion_takes_all_rows_if_they_are_too_few(criterion: Criterion) -> None:
    chosen = choose_rows(groups((3, 1, 0, 0)), NONE, np.ones(4), 9, criterion, 0)
    assert sorted(chosen) == [0, 1, 2, 3]
