"""Numbers behind the charts of labels, compared with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from finetune.audit.charts import POINTS
from finetune.audit.label_sections import coverage_table, threshold_table
from finetune.task_parts.views import LabelScores


@pytest.mark.parametrize("count", [40, 300])
def test_thresholds_have_the_precision_and_recall_of_scikit_learn(count: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2 * count, count) / (2 * count)  # some are equal
    truth = rng.random(count) < scores
    thresholds, precision, recall = threshold_table(scores, truth)
    assert len(thresholds) <= POINTS
    assert (np.diff(thresholds) < 0).all()
    assert recall[-1] == 1
    for line in zip(thresholds, precision, recall, strict=True):
        predicted = scores >= line[0]
        assert line[1] == pytest.approx(precision_score(truth, predicted))
        assert line[2] == pytest.approx(recall_score(truth, predicted))


def test_coverage_is_the_share_of_rows_that_are_answered() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 50)
    labels = rng.integers(3, size=50)
    table = coverage_table(LabelScores("abc", scores, labels[:, None] == np.arange(3), True))
    assert table[-1]["coverage"] == 1
    for line in table:
        answered = scores.max(1) >= line["confidence"] - 1e-4
        assert line["coverage"] == pytest.approx(answered.mean(), abs=1e-4)
        right = accuracy_score(labels[answered], scores.argmax(1)[answered])
        assert line["accuracy"] == pytest.approx(right, abs=1e-4)
