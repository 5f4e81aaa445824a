"""The check that pseudo-labels help: cross-validated on the labeled rows against the plain head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.semisupervised.partly_labeled import (
    Floats,
    Indices,
    PartlyLabeled,
    fit_and_predict,
    most_confident,
)

Learner = Callable[[PartlyLabeled, int], Floats]
ACCEPTED = 0.8
"""Share of the rows of each predicted class that are given their pseudo-label."""
_FOLDS, _REPEATS = 4, 2
_MOST_UNLABELED = 5_000  # in the check, which fits nine times as many heads as the run


@dataclass(frozen=True)
class HeldOutCheck:
    """Accuracy and log loss on labeled rows that were held out, plain and with pseudo-labels.

    Attributes:
        rows: number of labeled rows.
        plain, helped: (accuracy, log loss).
        chance: standard error of the difference of the accuracies.
    """

    rows: int
    plain: tuple[float, float]
    helped: tuple[float, float]
    chance: float

    @property
    def passed(self) -> bool:
        """True if the log loss falls, and the accuracy by no more than chance explains."""
        (before, loss_before), (after, loss_after) = self.plain, self.helped
        return loss_after < loss_before and after >= before - self.chance


def check_held_out(data: PartlyLabeled, learn: Learner, seed: int) -> HeldOutCheck | None:
    """Compare heads with and without pseudo-labels; None if a class has too few rows for that."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(_FOLDS, np.bincount(data.classes, minlength=data.count).min())
    if folds < 2:
        return None
    data = data.sample(_MOST_UNLABELED, seed)
    plain, helped = list[Floats](), list[Floats]()
    for repeat in range(_REPEATS):
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        for rest, held in parts.split(data.labeled, data.classes):
            some = data.take(rest)
            vectors, truth = data.labeled[held], data.classes[held]
            scores = fit_and_predict(some.labeled, some.classes, vectors, data.count)
            plain.append(_judge(scores, truth))
            kept, pseudo = accept(learn(some, seed))
            scores = fit_and_predict(
                np.concatenate([some.labeled, data.unlabeled[kept]]),
                np.concatenate([some.classes, pseudo]),
                vectors,
                data.count,
            )
            helped.append(_judge(scores, truth))
    before, after = np.concatenate(plain), np.concatenate(helped)  # [rows x repeats, 2]
    rows = len(data.labeled)
    chance = float((after[:, 0] - before[:, 0]).std() / np.sqrt(rows))
    means = [tuple(each.mean(0).tolist()) for each in (before, after)]
    return HeldOutCheck(rows, means[0], means[1], chance)


def accept(scores: Floats) -> tuple[Indices, Indices]:
    """Return the rows that get a pseudo-label, and the classes that they get."""
    kept = most_confident(scores, ACCEPTED)
    kept = kept[scores[kept].max(1) > 0]  # label spreading does not reach every row
    return kept, scores[kept].argmax(1)


def _judge(scores: Floats, truth: Indices) -> Floats:
    """Return for each row 1 if it is right and its log loss, [N, 2]."""
    chances = scores[np.arange(len(truth)), truth].clip(1e-6)
    right = scores.argmax(1) == truth
    return np.stack([right.astype(np.float32), -np.log(chances)], axis=1)
