"""Outcomes of rows by the kinds of label columns, and labels that are never predicted."""

from __future__ import annotations

import torch

from tasks.classification.label_config import TargetConfig
from tasks.classification.label_views import LabelViews
from tasks.classification.targets import Number, SeveralLabels, SingleLabel, Targets


def ranked(targets: Targets, scores: list[list[float]], truth: object) -> list[int]:
    outcomes = targets.outcomes(torch.tensor(scores), torch.tensor(truth))
    return sorted(range(len(outcomes)), key=lambda index: -outcomes[index].mistake)


def config(kind: str) -> TargetConfig:
    return TargetConfig.model_validate({"name": "x", "kind": kind, "label": "label"})


def test_outcomes_of_single_labels_put_confident_mistakes_first_and_doubtful_hits_next() -> None:
    targets = SingleLabel(config("single"), {"names": ["7", "8"], "type": "integer"})
    scores = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]]
    assert ranked(targets, scores, [0, 1, 0, 1]) == [2, 1, 3, 0]
    [first, *_] = targets.outcomes(torch.tensor(scores), torch.tensor([0, 1, 0, 1]))
    assert first.columns["true"] == first.columns["predicted"] == 7
    assert abs(first.columns["probability"] - 0.9) < 1e-6


def test_outcomes_of_several_labels_rank_by_the_most_confident_wrong_one() -> None:
    targets = SeveralLabels(config("several"), {"names": ["a", "b"], "delimiter": None})
    scores = [[0.9, 0.1], [0.9, 0.6], [0.9, 0.02]]
    truth = [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    assert ranked(targets, scores, truth) == [2, 1, 0]
    outcome = targets.outcomes(torch.tensor(scores), torch.tensor(truth))[1]
    assert outcome.columns["true"] == ["a"]
    assert outcome.columns["predicted"] == ["a", "b"]


def test_outcomes_of_numbers_rank_by_the_size_of_the_error() -> None:
    targets = Number(config("number"), {"names": ["score"], "deviation": 1.0, "mean": 0.0})
    assert ranked(targets, [[1.0], [5.0], [-9.0]], [1.5, 3.0, 1.0]) == [2, 1, 0]


def test_remark_names_labels_that_occur_and_are_never_predicted() -> None:
    names = {"names": ["a", "b", "c"], "type": "text"}
    views = LabelViews(SingleLabel(config("single"), names))
    stats = {"scores": torch.tensor([[0.9, 0.1, 0.0]] * 3), "target": torch.tensor([0, 1, 1])}
    assert views.remark(stats, {}, {}) == "labels never predicted: 'b' (2 rows)"
    assert views.remark(stats | {"target": torch.tensor([0, 0, 0])}, {}, {}) == ""
    several = LabelViews(SeveralLabels(config("several"), names | {"delimiter": None}))
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    remark = several.remark(stats | {"target": target}, {}, {})
    assert remark == "labels never predicted: 'b' (1 row)"
