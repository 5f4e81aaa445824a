"""The metric that train.best names, and its direction."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config.best_metric import selected_metric
from finetune.errors import ConfigError

KNOWN = ["accuracy", "f1_macro", "recall/a", "recall/b", "recall/recall", "wer/wer"]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (None, ("accuracy", "max")),
        ("f1_macro", ("f1_macro", "max")),
        ("-f1_macro", ("f1_macro", "min")),
        ("+loss", ("loss", "max")),
        ("loss/dice", ("loss/dice", "min")),
        ("wer", ("wer/wer", "min")),
        ("recall/b", ("recall/b", "max")),
        ("last", None),
    ],
)
def test_selected_metric_has_the_direction_of_its_kind_or_sign(best: Any, expected: Any) -> None:
    assert selected_metric(best, ("accuracy", "max"), KNOWN) == expected


@pytest.mark.parametrize(
    ("best", "offer"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("f2", "choose from: loss, accuracy, f1_macro, recall/a, recall/recall, wer/wer$"),
    ],
)
def test_selected_metric_offers_names_for_an_unknown_one(best: str, offer: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown metric {best!r}; {offer}"):
        selected_metric(best, ("accuracy", "max"), KNOWN)


def test_selected_metric_of_a_task_without_declared_names_is_not_checked() -> None:
    assert selected_metric("mine", ("loss", "min")) == ("mine", "max")
