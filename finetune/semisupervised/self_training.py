"""Self-training: a head learns from its own most confident predictions, in rounds.

scikit-learn's SelfTrainingClassifier adds the most confident rows whatever their class, which on
few labels makes one class of all rows; here a growing share of each predicted class is taken, and
all pseudo-labels are chosen anew in every round. Classes have equal weights: a head that learns how
often it predicts a class predicts the frequent ones ever more often.
"""

from __future__ import annotations

import numpy as np

from finetune.semisupervised.partly_labeled import (
    Floats,
    PartlyLabeled,
    fit_and_predict,
    most_confident,
)

ROUNDS = 10
_LAST_SHARE = 0.95


def self_train(data: PartlyLabeled, seed: int) -> Floats:
    """Return class probabilities of the unlabeled rows [N, C]; no part of it is random."""
    vectors, classes = data.labeled, data.classes
    scores = fit_and_predict(vectors, classes, data.unlabeled, data.count, balanced=True)
    for number in range(1, ROUNDS + 1):
        kept = most_confident(scores, _LAST_SHARE * number / ROUNDS)
        scores = fit_and_predict(
            np.concatenate([vectors, data.unlabeled[kept]]),
            np.concatenate([classes, scores[kept].argmax(1)]),
            data.unlabeled,
            data.count,
            balanced=True,
        )
    return scores
