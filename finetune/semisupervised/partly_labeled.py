"""Vectors of which some have a class, and the plain head on them that all methods share.

Shapes: M labeled rows, N unlabeled rows, H features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.feature_space import draw_sample

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
# Inverse strength of L2 in scikit-learn's terms, for vectors of length 1.
PLAIN_STRENGTH = 10.0


@dataclass(frozen=True)
class PartlyLabeled:
    """Vectors of length 1, and the classes of those that have one.

    Attributes:
        labeled: [M, H].
        classes: of the labeled rows, int64 [M].
        unlabeled: [N, H].
        count: number of classes C.
        strong: strongly altered views of the unlabeled rows, each [N, H]; only for FixMatch.
    """

    labeled: Floats
    classes: Indices
    unlabeled: Floats
    count: int
    strong: Sequence[Floats] = ()

    def take(self, rows: Indices) -> PartlyLabeled:
        """Return this with some of the labeled rows only."""
        return replace(self, labeled=self.labeled[rows], classes=self.classes[rows])

    def sample(self, most: int, seed: int) -> PartlyLabeled:
        """Return this with at most this many of the unlabeled rows."""
        rows = draw_sample(len(self.unlabeled), most, seed)
        strong = [view[rows] for view in self.strong]
        return replace(self, unlabeled=self.unlabeled[rows], strong=strong)


def unit_vectors(vectors: Floats) -> Floats:
    """Scale vectors [N, H] to length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def fit_and_predict(
    vectors: Floats,
    classes: Indices,
    others: Floats,
    count: int,
    *,
    balanced: bool = False,
) -> Floats:
    """Fit a logistic regression; return its probabilities for other vectors, [N, C].

    With `balanced`, all classes have the same weight however many rows they have.
    """
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((len(others), count), dtype=np.float32)
    present = np.unique(classes)
    if len(present) == 1:
        found[:, present] = 1
        return found
    weights = "balanced" if balanced else None
    head = LogisticRegression(C=PLAIN_STRENGTH, max_iter=300, class_weight=weights)
    head.fit(vectors, classes)
    found[:, present] = head.predict_proba(others)
    return found


def most_confident(scores: Floats, share: float) -> Indices:
    """Return the sorted indices of this share of the rows of each predicted class.

    By class, so that the classes that are predicted most surely do not displace the others.
    """
    predicted, confidence = scores.argmax(1), scores.max(1)
    kept = []
    for name in range(scores.shape[1]):
        (own,) = np.nonzero(predicted == name)
        order = np.argsort(-confidence[own], kind="stable")
        kept.append(own[order[: round(share * len(own))]])
    return np.sort(np.concatenate(kept))
