"""Methods of pseudo-labels and their check, on vectors whose classes are known."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.semisupervised.held_out_check import HeldOutCheck, accept, check_held_out, judge_rows
from finetune.semisupervised.partly_labeled import (
    PartlyLabeled,
    fit_and_predict,
    most_confident,
    unit_vectors,
)
from finetune.semisupervised.self_training import self_train
from finetune.semisupervised.strong_views import alter_texts, drop_words, second_half
from finetune.semisupervised.unlabeled_rows import LEARNERS

WIDTH, CLASSES = 16, 3


def half_moons(per_class: int, labeled: int, seed: int = 0) -> tuple[PartlyLabeled, np.ndarray]:
    """Long clusters, one a class, of which few rows have a label; also the classes of the others.

    Each cluster reaches from one of the first axes to one of the next.
    """
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(CLASSES), per_class)
    angles = rng.random(len(classes)) * np.pi / 2
    vectors = 0.08 * rng.standard_normal((len(classes), WIDTH))
    vectors[np.arange(len(classes)), classes] += np.cos(angles)
    vectors[np.arange(len(classes)), classes + CLASSES] += np.sin(angles)
    points = unit_vectors(vectors.astype(np.float32))
    order = [np.nonzero(classes == name)[0][:labeled] for name in range(CLASSES)]
    known = np.concatenate(order)
    rest = np.setdiff1d(np.arange(len(classes)), known)
    strong = [unit_vectors(points[rest] + 0.1 * rng.standard_normal((len(rest), WIDTH)))]
    data = PartlyLabeled(points[known], classes[known], points[rest], CLASSES, strong)
    return data, classes[rest]


def noisy_clusters(seed: int) -> tuple[PartlyLabeled, np.ndarray]:
    """Clusters that overlap and differ in size, one a class; also the classes of the others."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(CLASSES), (240, 60, 60))
    vectors = 0.35 * rng.standard_normal((len(classes), 2 * WIDTH))
    vectors[np.arange(len(classes)), classes] += 1
    points = unit_vectors(vectors.astype(np.float32))
    known = np.concatenate([np.nonzero(classes == name)[0][:4] for name in range(CLASSES)])
    rest = np.setdiff1d(np.arange(len(classes)), known)
    return PartlyLabeled(points[known], classes[known], points[rest], CLASSES), classes[rest]


@pytest.mark.parametrize("method", sorted(LEARNERS))
def test_every_method_labels_clusters_from_a_few_rows_and_repeats_itself(method: str) -> None:
    data, truth = half_moons(40, 4)
    scores = LEARNERS[method](data, 1)
    assert scores.shape == (len(truth), CLASSES)
    assert np.isfinite(scores).all()
    kept, pseudo = accept(scores)
    assert (pseudo == truth[kept]).mean() > 0.95
    assert np.array_equal(scores, LEARNERS[method](data, 1))


@pytest.mark.parametrize("method", ["label-spreading", "self-training"])
def test_methods_know_the_number_of_classes_from_outside(method: str) -> None:
    data, _ = half_moons(20, 2)
    without_last = data.take(np.nonzero(data.classes < CLASSES - 1)[0])
    assert LEARNERS[method](without_last, 0)[:, -1].max() == 0


def test_most_confident_takes_a_share_of_each_predicted_class() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.45, 0.55], [0.4, 0.6]])
    assert most_confident(scores.astype(np.float32), 0.5).tolist() == [0, 1, 5]


def test_the_check_passes_where_clusters_are_classes() -> None:
    data, _ = noisy_clusters(1)
    check = check_held_out(data, LEARNERS["self-training"], 0)
    assert check is not None
    assert check.passed
    assert check.helped[1] < check.plain[1]


def test_the_check_fails_where_clusters_are_not_classes() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng.standard_normal((200, WIDTH)).astype(np.float32))
    classes = (vectors[:30, 0] > 0).astype(np.int64)
    wrong = rng.permutation(170) % 2  # what a bad method may say

    def learn(data: PartlyLabeled, seed: int) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[wrong]

    check = check_held_out(PartlyLabeled(vectors[:30], classes, vectors[30:], 2), learn, 0)
    assert check is not None
    assert not check.passed


def test_a_sample_keeps_the_views_of_its_rows() -> None:
    data, _ = half_moons(40, 4)
    some = data.sample(10, 0)
    (places,) = np.nonzero((data.unlabeled[:, None] == some.unlabeled[None]).all(2).any(1))
    assert len(places) == 10
    assert np.array_equal(some.strong[0], data.strong[0][places])


def test_the_check_needs_two_rows_of_each_class() -> None:
    data, _ = half_moons(10, 1)
    assert check_held_out(data, LEARNERS["self-training"], 0) is None


def test_a_loss_of_accuracy_beyond_chance_fails_whatever_the_log_loss() -> None:
    errors = (0.05, 0.2)
    assert not HeldOutCheck(20, (0.9, 1.0), (0.8, 0.5), errors).passed
    assert HeldOutCheck(20, (0.9, 1.0), (0.88, 0.5), errors).passed
    assert not HeldOutCheck(20, (0.9, 0.5), (0.95, 0.6), errors).passed
    assert not HeldOutCheck(20, (0.9, 0.5), (0.95, 0.47), errors).passed  # too little to tell


def test_the_check_does_not_prefer_a_head_that_is_only_surer() -> None:
    data, truth = noisy_clusters(0)
    scores = fit_and_predict(data.labeled, data.classes, data.unlabeled, CLASSES)
    surer = scores**3 / (scores**3).sum(1, keepdims=True)
    assert np.allclose(judge_rows(scores, truth), judge_rows(surer, truth), atol=1e-3)


def test_self_training_does_not_follow_the_frequent_classes() -> None:
    gains = []
    for seed in range(3):
        data, truth = noisy_clusters(seed)
        plain = fit_and_predict(data.labeled, data.classes, data.unlabeled, CLASSES)
        recalls = [
            np.mean([(found[truth == name] == name).mean() for name in range(CLASSES)])
            for found in (plain.argmax(1), self_train(data, 0).argmax(1))
        ]
        gains.append(recalls[1] - recalls[0])
    assert np.mean(gains) > 0.06


def test_strong_views_of_texts_are_functions_of_the_seed() -> None:
    rows = [{"text": "a b c d e f g h"}, {"text": "one"}]
    first = alter_texts(rows, drop_words, 3)
    assert first == alter_texts(rows, drop_words, 3) != alter_texts(rows, drop_words, 4)
    assert set(first[0]["text"].split()) < set("abcdefgh")
    assert [row["text"] for row in alter_texts(rows, second_half, 0)] == ["e f g h", "one"]
