"""The check that pseudo-labels help: cross-validated on the labeled rows against the plain head.

Log losses are compared after temperature scaling. A head on more rows is surer, right or wrong; a
head on a few rows is less sure than it could be, and would lose for that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.reports.temperature import fit_factors, scale_scores
from finetune.semisupervised.partly_labeled import (
    Floats,
    Indices,
    PartlyLabeled,
    fit_and_predict,
    most_confident,
)
from finetune.task_parts.views import LabelScores

Learner = Callable[[PartlyLabeled, int], Floats]
ACCEPTED = 0.8
"""Share of the rows of each predicted class that are given their pseudo-label."""
MARGIN = 0.2
"""The log loss must fall by more than this share of the standard error of the difference."""
_FOLDS, _REPEATS = 4, 2
_MOST_UNLABELED = 5_000  # in the check, which fits nine times as many heads as the run


@dataclass(frozen=True)
class HeldOutCheck:
    """Accuracy and log loss on labeled rows that were held out, plain and with pseudo-labels.

    Attributes:
        rows: number of labeled rows.
        plain, helped: (accuracy, log loss after temperature scaling).
        chance: standard errors of the differences of both.
    """

    rows: int
    plain: tuple[float, float]
    helped: tuple[float, float]
    chance: tuple[float, float]

    @property
    def passed(self) -> bool:
        """True if the log loss falls, and the accuracy by no more than chance explains."""
        (before, loss_before), (after, loss_after) = self.plain, self.helped
        error, loss_error = self.chance
        return loss_after < loss_before - MARGIN * loss_error and after >= before - error


def check_held_out(data: PartlyLabeled, learn: Learner, seed: int) -> HeldOutCheck | None:
    """Compare heads with and without pseudo-labels; None if a class has too few rows for that."""
    from sklearn.model_selection import StratifiedKFold

    folds = count_folds(data.classes, data.count)
    if folds < 2:
        return None
    data = data.sample(_MOST_UNLABELED, seed)
    plain, helped, truths = list[Floats](), list[Floats](), list[Indices]()
    for repeat in range(_REPEATS):
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        for rest, held in parts.split(data.labeled, data.classes):
            some = data.take(rest)
            vectors = data.labeled[held]
            truths.append(data.classes[held])
            plain.append(fit_and_predict(some.labeled, some.classes, vectors, data.count))
            kept, pseudo = accept(learn(some, seed))
            helped.append(
                fit_and_predict(
                    np.concatenate([some.labeled, data.unlabeled[kept]]),
                    np.concatenate([some.classes, pseudo]),
                    vectors,
                    data.count,
                )
            )
    truth = np.concatenate(truths)
    before, after = (judge_rows(np.concatenate(each), truth) for each in (plain, helped))
    rows = len(data.labeled)  # each is in two of the differences
    errors = (after - before).std(0) / np.sqrt(rows)
    means = [tuple(each.mean(0).tolist()) for each in (before, after)]
    return HeldOutCheck(rows, means[0], means[1], tuple(errors.tolist()))


def count_folds(classes: Indices, count: int) -> int:
    """Return the number of folds of the labeled rows; below 2, none can be held out."""
    return min(_FOLDS, int(np.bincount(classes, minlength=count).min()))


def accept(scores: Floats) -> tuple[Indices, Indices]:
    """Return the rows that get a pseudo-label, and the classes that they get."""
    kept = most_confident(scores, ACCEPTED)
    kept = kept[scores[kept].max(1) > 0]  # label spreading does not reach every row
    return kept, scores[kept].argmax(1)


def judge_rows(scores: Floats, truth: Indices) -> Floats:
    """Return for each row 1 if it is right, and its log loss after temperature scaling, [N, 2]."""
    classes = range(scores.shape[1])
    labels = LabelScores([str(each) for each in classes], scores, truth[:, None] == classes, True)
    scaled = scale_scores(labels, fit_factors(labels)).scores
    chances = scaled[np.arange(len(truth)), truth].clip(1e-6)
    right = scores.argmax(1) == truth
    return np.stack([right.astype(np.float32), -np.log(chances)], axis=1)
